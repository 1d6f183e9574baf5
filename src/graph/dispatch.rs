//! A recorded kernel launch: its parameters, its tensors and what it does with them.

use super::{Kernel, Tensor};

/// The Rust counterpart of a shader's uniform `params`; implemented by [`params!`](crate::params).
pub trait Params: bytemuck::Pod {
    /// Names and WGSL types of the fields, in order.
    const FIELDS: &'static [(&'static str, &'static str)];
}

/// Declares a dispatch's parameters: a `repr(C)` struct of `u32` and `f32` whose fields are those of the shader's `Params`.
/// Recording a dispatch compares the two.
#[macro_export]
macro_rules! params {
    ($vis:vis $name:ident { $($field:ident: $ty:tt),* $(,)? }) => {
        #[repr(C)]
        #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name { $($vis $field: $ty),* }
        impl $crate::graph::Params for $name {
            const FIELDS: &'static [(&'static str, &'static str)] = &[$((stringify!($field), stringify!($ty))),*];
        }
    };
}

/// How a dispatch uses a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Bound `read`.
    Read,
    /// Bound `read_write`; every element that is read later is written.
    Write,
    /// Bound `read_write`; the old contents matter.
    Update,
}

/// A tensor as an argument of a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// The tensor.
    pub tensor: Tensor,
    /// What the kernel does with it.
    pub access: Access,
}

/// An argument that the kernel only reads.
pub fn read(tensor: Tensor) -> Argument {
    Argument { tensor, access: Access::Read }
}

/// An argument that the kernel overwrites.
pub fn write(tensor: Tensor) -> Argument {
    Argument { tensor, access: Access::Write }
}

/// An argument that the kernel reads and writes.
pub fn update(tensor: Tensor) -> Argument {
    Argument { tensor, access: Access::Update }
}

/// One recorded kernel launch.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// Scope and kernel, such as `h3.attn_adapter.adapter.backward`.
    pub label: String,
    /// The kernel that runs.
    pub kernel: Kernel,
    /// The bytes of its uniform `params`.
    pub params: Vec<u8>,
    /// Its storage buffers in the order of their binding numbers.
    pub arguments: Vec<Argument>,
    /// Workgroups along x, y, z.
    pub workgroups: [u32; 3],
    /// Floating-point operations, for measurements; 0 if only the bytes matter.
    pub operations: u64,
    /// The bytes that it reads and writes, for measurements: those of its tensors, updated ones twice, unless the op sets another number.
    pub bytes: u64,
}
