//! The properties of a device that a recording depends on.

/// The traits of a device that choose kernel variants and tile sizes. `gpu` fills them in; tests may change them to run another variant.
#[derive(Clone, Debug, PartialEq)]
pub struct Traits {
    /// The device is a CPU (lavapipe, llvmpipe, WARP): no workgroup memory or barriers in hot loops.
    pub cpu: bool,
    /// The subgroup size, if subgroup operations exist and the size is fixed.
    pub subgroup: Option<u32>,
    /// The device has 16-bit floats.
    pub half: bool,
    /// The cooperative matrices of f16 operands and f32 sums, if kernels can use them.
    pub matrix: Option<Matrix>,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// The most bytes that one storage binding can span.
    pub max_binding: u64,
    /// The most bytes of one buffer.
    pub max_buffer: u64,
    /// The most rows of one image.
    pub max_image_rows: u32,
    /// The most workgroups along one dimension of a dispatch.
    pub max_workgroups: u32,
    /// The most floating-point operations of one dispatch, as far as its op can be split: what a slow device of this class does in 100 ms
    /// ([`Traits::dispatch_operations_of`]).
    pub dispatch_operations: u64,
    /// Shader files that compute wrong results on this device (`doctor::self_check`): an op that has another kernel uses that instead.
    pub avoided: Vec<&'static str>,
}

/// A kind of cooperative matrices, and how `matmul_matrix.wgsl` divides its work among subgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Rows and columns.
    pub size: u32,
    /// Regions that a subgroup multiplies.
    pub regions: u32,
}

impl Matrix {
    /// Matrices of this size on a device with subgroups from `least` to `most` invocations. `None` if a tile does not divide evenly.
    pub fn new(size: u32, [least, most]: [u32; 2]) -> Option<Matrix> {
        let all = match size {
            16 => 4,
            8 => 16,
            _ => return None,
        };
        let regions = all * most / 128;
        (128 / least.max(1) <= all && [1, 2].contains(&regions)).then_some(Matrix { size, regions })
    }
}

impl Traits {
    /// A GPU with the limits that WebGPU guarantees: for recordings without a device.
    pub fn minimal() -> Self {
        Traits {
            cpu: false,
            subgroup: None,
            half: false,
            matrix: None,
            workgroup_memory: 16 << 10,
            max_binding: 128 << 20,
            max_buffer: 256 << 20,
            max_image_rows: 8192,
            max_workgroups: 65_535,
            dispatch_operations: Traits::dispatch_operations_of(false),
            avoided: Vec::new(),
        }
    }

    /// A GPU with the limits of most desktop drivers: for estimates without a device.
    pub fn desktop() -> Self {
        Traits { max_binding: (2 << 30) - 4, max_buffer: 1 << 40, max_image_rows: 16_384, ..Traits::minimal() }
    }

    /// The `dispatch_operations` of CPU devices and of GPUs.
    ///
    /// A GPU must not be busy for the 2 s after which an operating system resets it. The weakest GPUs that still run this (integrated, 24
    /// execution units, 0.4 TFLOP/s on paper) reach a quarter of their peak, so 50 GFLOP take them 0.5 s; a typical integrated GPU needs
    /// 100 ms. Fewer operations would not fill a large GPU, which has to be filled again for every dispatch. A CPU has no watchdog, but it
    /// shares the machine with everything else that runs there; two cores do 20 GFLOP/s.
    pub fn dispatch_operations_of(cpu: bool) -> u64 {
        if cpu { 2_000_000_000 } else { 50_000_000_000 }
    }

    /// Whether the kernels of a shader file must not be used if there are others.
    pub fn avoids(&self, file: &str) -> bool {
        self.avoided.contains(&file)
    }

    /// The subgroup size of a CPU device that shares values between lanes instead of through workgroup memory; 0 for other devices.
    pub fn cpu_subgroup(&self) -> u32 {
        if self.cpu { self.subgroup.filter(|s| [4, 8, 16].contains(s)).unwrap_or(0) } else { 0 }
    }
}
