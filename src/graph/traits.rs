//! What a device says of itself, as far as a recording depends on it.

/// The traits of a device that choose kernel variants and tile sizes. `gpu` fills them in; tests may change them to run another variant.
#[derive(Clone, Debug, PartialEq)]
pub struct Traits {
    /// The device is a CPU (lavapipe, llvmpipe, WARP): no workgroup memory or barriers in hot loops.
    pub cpu: bool,
    /// The subgroup size where subgroup operations exist and it is one known number.
    pub subgroup: Option<u32>,
    /// The device has 16-bit floats.
    pub half: bool,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// Bytes that one storage binding may span.
    pub max_binding: u64,
    /// Bytes of one buffer.
    pub max_buffer: u64,
    /// Rows of one image.
    pub max_image_rows: u32,
    /// Workgroups along one dimension of a dispatch.
    pub max_workgroups: u32,
}

impl Traits {
    /// The least that WebGPU promises, as a GPU: for recordings without a device.
    pub fn minimal() -> Self {
        Traits {
            cpu: false,
            subgroup: None,
            half: false,
            workgroup_memory: 16 << 10,
            max_binding: 128 << 20,
            max_buffer: 256 << 20,
            max_image_rows: 8192,
            max_workgroups: 65_535,
        }
    }

    /// A GPU with the limits of most desktop drivers: for estimates without a device.
    pub fn desktop() -> Self {
        Traits { max_binding: (2 << 30) - 4, max_buffer: 1 << 50, max_image_rows: 16_384, ..Traits::minimal() }
    }

    /// The subgroup size where a CPU device shares values between lanes instead of through workgroup memory; 0 elsewhere.
    pub fn lanes(&self) -> u32 {
        if self.cpu { self.subgroup.filter(|s| [4, 8, 16].contains(s)).unwrap_or(0) } else { 0 }
    }
}
