//! The devices that there are, and what each reports about itself.

use crate::graph::{Matrix, Traits};

/// Information about a device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// The device's own name.
    pub name: String,
    /// `vulkan`, `metal`, `dx12` or `gl`.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// The kind of device, in words.
    pub kind: &'static str,
    /// Whether it is a software device, which computes on the CPU.
    pub cpu: bool,
    /// The largest buffer in bytes.
    pub max_buffer: u64,
    /// The largest range of a buffer that a kernel can see, in bytes.
    pub max_binding: u64,
    /// The smallest and the largest subgroup size, if subgroup operations exist.
    pub subgroup: Option<[u32; 2]>,
    /// The traits that recordings for it depend on.
    pub traits: Traits,
}

impl std::fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, {})", self.name, self.backend, self.driver)
    }
}

/// The largest cooperative matrices of f16 operands and f32 sums that the kernels can use.
fn matrix(adapter: &wgpu::Adapter, subgroup: Option<[u32; 2]>) -> Option<Matrix> {
    use wgpu::CooperativeScalarType::{F16, F32};
    if !adapter.features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16) {
        return None;
    }
    let found = adapter.cooperative_matrix_properties();
    let square = |size| found.iter().any(|p| [p.m_size, p.n_size, p.k_size] == [size; 3] && [p.ab_type, p.cr_type] == [F16, F32]);
    [16, 8].into_iter().filter(|&size| square(size)).find_map(|size| Matrix::new(size, subgroup?))
}

impl DeviceInfo {
    pub(super) fn of(adapter: &wgpu::Adapter) -> Self {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let sizes = [info.subgroup_min_size, info.subgroup_max_size];
        let subgroup = adapter.features().contains(wgpu::Features::SUBGROUP).then_some(sizes);
        let cpu = info.device_type == wgpu::DeviceType::Cpu;
        let traits = Traits {
            cpu,
            subgroup: subgroup.filter(|[least, most]| least == most).map(|[size, _]| size),
            half: adapter.features().contains(wgpu::Features::SHADER_F16),
            matrix: matrix(adapter, subgroup),
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            max_binding: limits.max_storage_buffer_binding_size,
            max_buffer: limits.max_buffer_size,
            max_image_rows: limits.max_texture_dimension_2d,
            max_workgroups: limits.max_compute_workgroups_per_dimension,
            dispatch_operations: Traits::dispatch_operations_of(cpu),
            avoided: Vec::new(),
        };
        DeviceInfo {
            name: info.name,
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete GPU",
                wgpu::DeviceType::IntegratedGpu => "integrated GPU",
                wgpu::DeviceType::VirtualGpu => "virtual GPU",
                wgpu::DeviceType::Cpu => "software on the CPU",
                wgpu::DeviceType::Other => "other",
            },
            backend: info.backend.to_string(),
            driver: [info.driver, info.driver_info].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" "),
            cpu,
            max_buffer: limits.max_buffer_size,
            max_binding: limits.max_storage_buffer_binding_size,
            subgroup,
            traits,
        }
    }
}

/// The number of the first device that matches `wanted`, which is a number or a part of a name.
pub fn find_device(all: &[DeviceInfo], wanted: &str) -> Option<usize> {
    // A number is a part of a name only if no device has that number: `1` means device 1, not a GTX 1080.
    let number = wanted.parse().ok().filter(|&number| number < all.len());
    number.or_else(|| all.iter().position(|info| info.name.to_lowercase().contains(&wanted.to_lowercase())))
}

/// Every usable device, the best first: discrete GPUs, then integrated and virtual ones, then software. OpenGL is searched only
/// if Vulkan, Metal and DX12 find nothing. The environment variable `WGPU_BACKEND` (`vulkan`, `gl`, …) narrows the search.
pub fn devices() -> Vec<DeviceInfo> {
    adapters().iter().map(DeviceInfo::of).collect()
}

pub(super) fn adapters() -> Vec<wgpu::Adapter> {
    let search = |backends: wgpu::Backends| {
        let descriptor = wgpu::InstanceDescriptor {
            backends,
            flags: wgpu::InstanceFlags::empty(),
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        };
        let found = pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(backends));
        let compute = |a: &wgpu::Adapter| a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS);
        found.into_iter().filter(compute).collect::<Vec<_>>()
    };
    let mut found = match wgpu::Backends::from_env() {
        Some(backends) => search(backends),
        None => search(wgpu::Backends::PRIMARY),
    };
    if found.is_empty() && wgpu::Backends::from_env().is_none() {
        found = search(wgpu::Backends::GL);
    }
    found.sort_by_key(|a| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_its_number_before_its_name() {
        let named = |name: &str| DeviceInfo {
            name: name.into(),
            kind: "other",
            backend: "vulkan".into(),
            driver: String::new(),
            cpu: false,
            max_buffer: 0,
            max_binding: 0,
            subgroup: None,
            traits: Traits::minimal(),
        };
        let all = ["GeForce GTX 1080", "Radeon RX 6600", "llvmpipe (LLVM 19.1.7, 256 bits)"].map(named);
        for (wanted, number) in
            [("0", Some(0)), ("1", Some(1)), ("2", Some(2)), ("1080", Some(0)), ("radeon", Some(1)), ("LLVM", Some(2)), ("apple", None)]
        {
            assert_eq!(find_device(&all, wanted), number, "{wanted}");
        }
    }
}
