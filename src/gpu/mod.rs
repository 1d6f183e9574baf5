//! The only room that knows wgpu: devices, pipelines, the memory of a model, and programs that replay a recording.

mod device;
mod image;
mod memory;
mod pacing;
mod pipeline;
mod program;
mod readback;
mod state;
mod timing;

pub use device::{Device, DeviceInfo, devices, find_device};
pub use memory::{Memory, Step};
pub use program::{Program, bytes_of};
pub use readback::Readback;
pub use state::State;
pub use timing::Timing;
