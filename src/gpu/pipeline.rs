//! Compiling a kernel's WGSL to a compute pipeline, with bindings from its reflection.

use std::sync::Arc;

use super::image;
use crate::graph::{Kernel, Reflection};

/// A compiled kernel.
pub(super) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    /// Group 0: `params`, the storage buffers and the images.
    pub(super) layout: wgpu::BindGroupLayout,
    pub(super) reflection: Arc<Reflection>,
}

impl Pipeline {
    /// Compiles `source`, the WGSL of `kernel`.
    pub(super) fn new(device: &wgpu::Device, kernel: &Kernel, source: String, checked: bool) -> Pipeline {
        let reflection = kernel.reflect();
        let label = kernel.to_string();
        let entry = |binding, ty| wgpu::BindGroupLayoutEntry { binding, visibility: wgpu::ShaderStages::COMPUTE, ty, count: None };
        let buffer = |ty| wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None };
        let image = |texel| wgpu::BindingType::StorageTexture {
            access: wgpu::StorageTextureAccess::ReadOnly,
            format: image::format(texel),
            view_dimension: wgpu::TextureViewDimension::D2,
        };
        let mut entries = Vec::new();
        if !reflection.params.is_empty() {
            entries.push(entry(0, buffer(wgpu::BufferBindingType::Uniform)));
        }
        entries.extend(reflection.storage.iter().map(|b| {
            let as_buffer = buffer(wgpu::BufferBindingType::Storage { read_only: !b.writable });
            entry(b.binding, b.texel.map_or(as_buffer, image))
        }));
        let group =
            |label: &str, entries: &[_]| device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries });
        let layout = group(&label, &entries);
        let step = reflection.uses_step.then(|| step_layout(device));
        let groups = [Some(&layout), step.as_ref()];
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &groups[..1 + step.is_some() as usize],
            immediate_size: 0,
        });

        let source = wgpu::ShaderSource::Wgsl(source.into());
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(&label), source };
        let mut checks = wgpu::ShaderRuntimeChecks::checked();
        checks.bounds_checks = checked;
        checks.force_loop_bounding = checked;
        // SAFETY: every index is derived from the sizes of the bound tensors, which recording compares with the kernel's parameters,
        // and every loop counts up to such a size; the tests run all kernels with the checks on and with canaries after each output.
        let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions { constants: &[], zero_initialize_workgroup_memory: false },
            cache: None,
        });
        Pipeline { pipeline, layout, reflection }
    }
}

/// Group 1: the values that change with every step.
pub(super) fn step_layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some("step"),
        entries: &[wgpu::BindGroupLayoutEntry {
            binding: 0,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty: wgpu::BufferBindingType::Uniform, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        }],
    })
}
