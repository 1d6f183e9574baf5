//! Compiles pipelines with a Vulkan driver and reads its statistics about them (VK_KHR_pipeline_executable_properties).

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::time::Instant;

use ash::{khr, vk};
use graftling::graph::{Kernel, Matrix};
use naga::back::spv;

/// A driver without its hardware.
pub struct Driver {
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
    pub name: String,
    /// The driver's version, such as `Mesa 26.2.6-1`.
    pub version: String,
    /// The cooperative matrices that kernels use on this device.
    pub matrix: Option<Matrix>,
    // The library has to outlive everything created from it.
    _instance: ash::Instance,
    _entry: ash::Entry,
}

/// What a driver reports about a pipeline.
pub struct Compiled {
    pub statistics: BTreeMap<String, u64>,
    /// The disassembled machine code, if the driver provides it.
    pub code: String,
    pub seconds: f64,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

impl Driver {
    /// Opens the first device, with all the features it supports.
    pub fn open() -> Result<Driver> {
        // SAFETY: the calls follow the specification: structures outlive the calls, and nothing is used after it is destroyed, since nothing is
        // destroyed before the process ends.
        unsafe {
            let entry = ash::Entry::load()?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let instance = entry.create_instance(&vk::InstanceCreateInfo::default().application_info(&application), None)?;
            let physical = *instance.enumerate_physical_devices()?.first().ok_or("there is no device")?;
            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
            instance.get_physical_device_properties2(physical, &mut properties);
            let name = properties.properties.device_name_as_c_str()?.to_string_lossy().into_owned();
            let version = driver.driver_info_as_c_str()?.to_string_lossy().into_owned();

            let mut vulkan11 = vk::PhysicalDeviceVulkan11Features::default();
            let mut vulkan12 = vk::PhysicalDeviceVulkan12Features::default();
            let mut vulkan13 = vk::PhysicalDeviceVulkan13Features::default();
            let mut executable = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default();
            let mut features = vk::PhysicalDeviceFeatures2::default()
                .push_next(&mut vulkan11)
                .push_next(&mut vulkan12)
                .push_next(&mut vulkan13)
                .push_next(&mut executable);
            let mut extensions = vec![khr::pipeline_executable_properties::NAME.as_ptr()];
            let mut cooperative = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
            let matrix = matrix(&entry, &instance, physical)?;
            if matrix.is_some() {
                extensions.push(khr::cooperative_matrix::NAME.as_ptr());
                features = features.push_next(&mut cooperative);
            }
            instance.get_physical_device_features2(physical, &mut features);
            let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
            let description =
                vk::DeviceCreateInfo::default().queue_create_infos(&queues).enabled_extension_names(&extensions).push_next(&mut features);
            let device = instance.create_device(physical, &description, None)?;
            let executables = khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Driver { device, executables, name, version, matrix, _instance: instance, _entry: entry })
        }
    }

    /// Compiles a kernel as wgpu does on a user's device.
    pub fn compile(&self, kernel: &Kernel) -> Result<Compiled> {
        let code = spirv(kernel)?;
        let reflection = kernel.reflect();
        let binding = |binding, ty| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(binding)
                .descriptor_type(ty)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let uniform = binding(0, vk::DescriptorType::UNIFORM_BUFFER);
        let mut tensors = vec![];
        if !reflection.params.is_empty() {
            tensors.push(uniform);
        }
        tensors.extend(reflection.storage.iter().map(|tensor| binding(tensor.binding, vk::DescriptorType::STORAGE_BUFFER)));
        // SAFETY: as in `open`.
        unsafe {
            let layout = |bindings: &[_]| {
                self.device.create_descriptor_set_layout(&vk::DescriptorSetLayoutCreateInfo::default().bindings(bindings), None)
            };
            let mut layouts = vec![layout(&tensors)?];
            if reflection.uses_step {
                layouts.push(layout(&[uniform])?);
            }
            let layout = self.device.create_pipeline_layout(&vk::PipelineLayoutCreateInfo::default().set_layouts(&layouts), None)?;
            let module = self.device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&code), None)?;
            let entry = std::ffi::CString::new(kernel.entry)?;
            let stage = vk::PipelineShaderStageCreateInfo::default().stage(vk::ShaderStageFlags::COMPUTE).module(module).name(&entry);
            let capture = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let description = vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(capture);
            let started = Instant::now();
            let created = self.device.create_compute_pipelines(vk::PipelineCache::null(), &[description], None);
            let pipeline = created.map_err(|(_, error)| error)?[0];
            let seconds = started.elapsed().as_secs_f64();
            let (statistics, code) = self.report(pipeline)?;
            Ok(Compiled { statistics, code, seconds })
        }
    }

    /// # Safety
    /// The pipeline must belong to this device.
    unsafe fn report(&self, pipeline: vk::Pipeline) -> Result<(BTreeMap<String, u64>, String)> {
        let text = |characters: &[std::ffi::c_char]| -> Result<String> {
            Ok(CStr::from_bytes_until_nul(bytemuck::cast_slice(characters))?.to_string_lossy().into_owned())
        };
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        // SAFETY: as in `open`; the union's field is the one that the format names.
        unsafe {
            let mut statistics = BTreeMap::new();
            for statistic in self.executables.get_pipeline_executable_statistics(&info)? {
                let value = match statistic.format {
                    vk::PipelineExecutableStatisticFormatKHR::UINT64 => statistic.value.u64,
                    vk::PipelineExecutableStatisticFormatKHR::INT64 => statistic.value.i64 as u64,
                    _ => continue,
                };
                statistics.insert(text(&statistic.name)?, value);
            }
            // The first call returns the length of each text, the second the texts; ash wraps only the first.
            let get = self.executables.fp().get_pipeline_executable_internal_representations_khr;
            let mut representations = self.executables.get_pipeline_executable_internal_representations(&info)?;
            let mut texts: Vec<Vec<u8>> = representations.iter().map(|r| vec![0; r.data_size]).collect();
            for (representation, text) in representations.iter_mut().zip(&mut texts) {
                representation.p_data = text.as_mut_ptr().cast();
            }
            let mut count = representations.len() as u32;
            get(self.device.handle(), &info, &mut count, representations.as_mut_ptr()).result()?;
            // Both drivers put the machine code last.
            let code = texts.last().map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned());
            Ok((statistics, code))
        }
    }
}

/// The largest cooperative matrices of f16 operands and f32 sums, chosen as `gpu` does.
///
/// # Safety
/// The device must belong to this instance.
unsafe fn matrix(entry: &ash::Entry, instance: &ash::Instance, physical: vk::PhysicalDevice) -> Result<Option<Matrix>> {
    // SAFETY: as in `open`.
    unsafe {
        let extensions = instance.enumerate_device_extension_properties(physical)?;
        if !extensions.iter().any(|extension| extension.extension_name_as_c_str() == Ok(khr::cooperative_matrix::NAME)) {
            return Ok(None);
        }
        let mut sizes = vk::PhysicalDeviceSubgroupSizeControlProperties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut sizes);
        instance.get_physical_device_properties2(physical, &mut properties);
        let subgroup = [sizes.min_subgroup_size, sizes.max_subgroup_size];
        let cooperative = khr::cooperative_matrix::Instance::new(entry, instance);
        let found = cooperative.get_physical_device_cooperative_matrix_properties(physical)?;
        let (half, single) = (vk::ComponentTypeKHR::FLOAT16, vk::ComponentTypeKHR::FLOAT32);
        let square = |size| {
            let fits = |p: &vk::CooperativeMatrixPropertiesKHR<'_>| {
                [p.m_size, p.n_size, p.k_size] == [size; 3] && [p.a_type, p.b_type, p.c_type, p.result_type] == [half, half, single, single]
            };
            found.iter().any(fits)
        };
        Ok([16, 8].into_iter().filter(|&size| square(size)).find_map(|size| Matrix::new(size, subgroup)))
    }
}

/// The SPIR-V that wgpu generates for a kernel without bounds checks.
fn spirv(kernel: &Kernel) -> Result<Vec<u32>> {
    let source = kernel.wgsl();
    let module = naga::front::wgsl::parse_str(&source)?;
    let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)?;
    let options = spv::Options {
        lang_version: (1, 3),
        flags: spv::WriterFlags::empty(),
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: kernel.entry.into() };
    Ok(spv::write_vec(&module, &info, &options, Some(&pipeline))?)
}
