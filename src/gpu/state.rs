//! State that programs change as they run and pass on to one another, such as the keys and values of the tokens so far.

use super::device::Device;
use super::memory::STORAGE;
use crate::error::Result;
use crate::graph::{Graph, Info};

/// The device memory of the states of a recording, and of every other recording that declares the same ones.
pub struct State {
    infos: Vec<Info>,
    buffers: Vec<wgpu::Buffer>,
}

impl State {
    /// Allocates zeroed memory for everything that [`Graph::state`] declared in `graph`.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] and [`crate::Error::OutOfMemory`], naming the state.
    pub fn new(device: &Device, graph: &Graph) -> Result<State> {
        let infos: Vec<Info> = graph.states().cloned().collect();
        graph.check_limits()?;
        let buffers = infos.iter().map(|info| device.buffer(&info.label, info.bytes(), STORAGE)).collect::<Result<_>>()?;
        Ok(State { infos, buffers })
    }

    /// How many bytes of device memory the states take.
    pub fn bytes(&self) -> u64 {
        self.buffers.iter().map(wgpu::Buffer::size).sum()
    }

    /// The buffer of the state with this number.
    pub(super) fn buffer(&self, index: u32) -> &wgpu::Buffer {
        &self.buffers[index as usize]
    }

    /// # Panics
    /// If `graph` declares other states than the graph that this was made for, which is a bug in the code that records.
    pub(super) fn assert_same(&self, graph: &Graph) {
        let name = |info: &Info| format!("{} {}", info.label, info.shape);
        let (own, other): (Vec<_>, Vec<_>) = (self.infos.iter().map(name).collect(), graph.states().map(name).collect());
        assert_eq!(own, other, "the states in memory (left) and those of the recording (right)");
    }
}
