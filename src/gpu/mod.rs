//! The only module that uses wgpu: devices, pipelines, the memory of a model, and programs that replay a recording.

mod device;
mod environment;
mod found;
mod image;
mod memory;
mod pacing;
mod pipeline;
mod program;
mod readback;
mod state;
mod timing;

pub use device::Device;
pub use environment::set_runtime_directory;
pub use found::{DeviceInfo, devices, find_device};
pub use memory::{Memory, Metrics, Step};
pub use program::{Program, bytes_of};
pub use readback::Readback;
pub use state::State;
pub use timing::Timing;
