//! Tensors, independent of any device: a handle, a shape, a format, and the owner of the memory.

use std::fmt;

/// A handle into one graph; the handles of parameters are the same in every graph of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tensor(pub(crate) u32);

impl Tensor {
    /// The tensor's index in its graph.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The format of a tensor's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16: the upper half of an f32.
    Bf16,
    /// Unsigned integers: tokens, lengths, orders.
    U32,
    /// Blocks of 32 elements of 4 bits. This and the next twelve are GGUF formats for frozen weights, in the layout of `weights/repack.rs`.
    Q4_0,
    /// Blocks of 32 elements of 4 bits, with a minimum.
    Q4_1,
    /// Blocks of 32 elements of 5 bits.
    Q5_0,
    /// Blocks of 32 elements of 5 bits, with a minimum.
    Q5_1,
    /// Blocks of 32 elements of 8 bits.
    Q8_0,
    /// Blocks of 256 elements of 4 bits.
    Q4K,
    /// Blocks of 256 elements of 5 bits.
    Q5K,
    /// Blocks of 256 elements of 6 bits.
    Q6K,
    /// Blocks of 256 elements of 2 bits.
    Q2K,
    /// Blocks of 256 elements of 3 bits.
    Q3K,
    /// Blocks of 32 elements of 4 bits that stand for values of a table.
    Iq4Nl,
    /// Blocks of 256 elements of 4 bits that stand for values of a table.
    Iq4Xs,
    /// Blocks of 32 floats of 4 bits.
    Mxfp4,
}

impl DType {
    /// The elements and bytes of a group, the smallest addressable unit: an element, a block, or two adjacent blocks if one is not a whole
    /// number of words.
    fn group(self) -> (u64, u64) {
        match self {
            DType::F32 | DType::U32 => (1, 4),
            DType::F16 | DType::Bf16 => (1, 2),
            DType::Q4_0 => (64, 36),
            DType::Q4_1 => (32, 20),
            DType::Q5_0 => (64, 44),
            DType::Q5_1 => (32, 24),
            DType::Q8_0 => (64, 68),
            DType::Q4K => (256, 144),
            DType::Q5K => (256, 176),
            DType::Q6K => (512, 420),
            DType::Q2K => (256, 84),
            DType::Q3K => (512, 220),
            DType::Iq4Nl | DType::Mxfp4 => (64, 36),
            DType::Iq4Xs => (256, 136),
        }
    }

    /// The elements in a group; 1 for formats without blocks. A range of a tensor must begin at a multiple of this.
    pub fn group_len(self) -> u64 {
        self.group().0
    }

    /// The bytes of `len` elements, with the last group padded.
    pub fn bytes(self, len: u64) -> u64 {
        let (elements, bytes) = self.group();
        len.div_ceil(elements) * bytes
    }

    /// The format's name in the file names of shaders.
    pub fn word(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::U32 => "u32",
            DType::Q4_0 => "q4_0",
            DType::Q4_1 => "q4_1",
            DType::Q5_0 => "q5_0",
            DType::Q5_1 => "q5_1",
            DType::Q8_0 => "q8_0",
            DType::Q4K => "q4_k",
            DType::Q5K => "q5_k",
            DType::Q6K => "q6_k",
            DType::Q2K => "q2_k",
            DType::Q3K => "q3_k",
            DType::Iq4Nl => "iq4_nl",
            DType::Iq4Xs => "iq4_xs",
            DType::Mxfp4 => "mxfp4",
        }
    }
}

/// The extent of each axis, the contiguous one last.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape(Vec<u64>);

impl Shape {
    /// The number of elements.
    pub fn len(&self) -> u64 {
        self.0.iter().product()
    }

    /// True if the extent of an axis is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The extents.
    pub fn axes(&self) -> &[u64] {
        &self.0
    }

    /// The extent of the contiguous axis.
    pub fn last(&self) -> u32 {
        *self.0.last().expect("a shape has an axis") as u32
    }

    /// The product of all axes but the last.
    pub fn rows(&self) -> u32 {
        (self.len() / self.last().max(1) as u64) as u32
    }

    /// The shape of this tensor and another concatenated along the first axis.
    ///
    /// # Panics
    /// If the other axes differ.
    pub fn stacked(&self, other: &Shape) -> Shape {
        assert_eq!(self.0[1..], other.0[1..], "{self} and {other} do not stack");
        let mut axes = self.0.clone();
        axes[0] += other.0[0];
        Shape(axes)
    }

    /// The same shape with another extent of the contiguous axis.
    pub fn with_last(&self, last: u32) -> Shape {
        let mut axes = self.0.clone();
        *axes.last_mut().expect("a shape has an axis") = last as u64;
        Shape(axes)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes: Vec<_> = self.0.iter().map(u64::to_string).collect();
        write!(f, "({})", axes.join(", "))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl<const N: usize> From<[u32; N]> for Shape {
    fn from(axes: [u32; N]) -> Self {
        Shape(axes.map(u64::from).to_vec())
    }
}

impl From<&[usize]> for Shape {
    fn from(axes: &[usize]) -> Self {
        Shape(axes.iter().map(|&a| a as u64).collect())
    }
}

/// Who owns a tensor's memory and how long it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A weight that never changes: bound `read` only.
    Frozen,
    /// Memory of the model that outlives a program: an arena, the metrics.
    Shared,
    /// A state with this number in its graph: programs modify it, and it outlives them. Programs that share a `gpu::State` share its
    /// contents.
    State(u32),
    /// Written by the host before a run.
    Input,
    /// Written and read within a run; other activations reuse its buffer before and after.
    Activation,
    /// Like an activation, but readable by the host after a run, so its buffer is not shared.
    Output,
    /// A range of another tensor that begins at this element.
    View {
        /// The tensor that owns the memory.
        of: Tensor,
        /// The first element.
        offset: u64,
    },
}

/// A graph's information about a tensor.
#[derive(Clone, Debug)]
pub struct Info {
    /// The name that errors and profiles show, such as `h3.ffn.up`.
    pub label: String,
    /// Its extents.
    pub shape: Shape,
    /// Its format.
    pub dtype: DType,
    /// Its owner.
    pub role: Role,
    /// Whether it needs a gradient.
    pub needs_gradient: bool,
}

impl Info {
    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes(self.shape.len())
    }
}
