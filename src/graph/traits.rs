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
    /// Floating-point operations that one dispatch may have, as far as its op can be split: what a slow device of this class does in
    /// 100 ms ([`Traits::dispatch_operations_of`]).
    pub dispatch_operations: u64,
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
            dispatch_operations: Traits::dispatch_operations_of(false),
        }
    }

    /// A GPU with the limits of most desktop drivers: for estimates without a device.
    pub fn desktop() -> Self {
        Traits { max_binding: (2 << 30) - 4, max_buffer: 1 << 40, max_image_rows: 16_384, ..Traits::minimal() }
    }

    /// The `dispatch_operations` of CPU devices and of GPUs.
    ///
    /// A GPU may not pass the 2 s after which an operating system resets it. The weakest that still run this (integrated, 24 execution units,
    /// 0.4 TFLOP/s on paper) do a quarter of their peak, and 50 GFLOP take them 0.5 s; the usual integrated GPU does them in 100 ms. Fewer
    /// would not fill a large GPU, which has to be filled again for every dispatch. A CPU has no watchdog, but two cores share the
    /// machine with everything else that runs there: they do 20 GFLOP/s.
    pub fn dispatch_operations_of(cpu: bool) -> u64 {
        if cpu { 2_000_000_000 } else { 50_000_000_000 }
    }

    /// The subgroup size where a CPU device shares values between lanes instead of through workgroup memory; 0 elsewhere.
    pub fn cpu_subgroup(&self) -> u32 {
        if self.cpu { self.subgroup.filter(|s| [4, 8, 16].contains(s)).unwrap_or(0) } else { 0 }
    }
}
