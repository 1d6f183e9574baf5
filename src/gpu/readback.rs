//! Reading the metrics of each step back to the host.

use std::collections::VecDeque;
use std::sync::mpsc;

use super::device::Device;
use super::memory::{Memory, Metrics};
use crate::error::{Error, Result};

const BYTES: u64 = std::mem::size_of::<Metrics>() as u64;

/// Copies of the metrics that are in flight, so that reading them never stalls the device.
#[derive(Default)]
pub struct Readback {
    pending: VecDeque<Pending>,
    idle: Vec<wgpu::Buffer>,
}

struct Pending {
    staging: wgpu::Buffer,
    arrived: mpsc::Receiver<()>,
    submission: wgpu::SubmissionIndex,
}

impl Readback {
    /// Requests the metrics as they are after everything submitted so far.
    ///
    /// # Errors
    /// If the device fails.
    pub fn request(&mut self, device: &Device, memory: &Memory) -> Result<()> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.idle.pop().map_or_else(|| device.buffer("metrics readback", BYTES, usage), Ok)?;
        let metrics = memory.buffer(memory.arenas().metrics).expect("every model has metrics");
        let mut encoder = device.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(metrics, 0, &staging, 0, BYTES);
        let submission = device.queue.submit([encoder.finish()]);
        let (sender, arrived) = mpsc::channel();
        // If training ended early, nobody is listening any more, which is not a failure.
        staging.map_async(wgpu::MapMode::Read, .., move |_| sender.send(()).unwrap_or_default());
        self.pending.push_back(Pending { staging, arrived, submission });
        Ok(())
    }

    /// The answer to the oldest request, if more than `in_flight` requests are pending or it has already arrived.
    ///
    /// # Errors
    /// If the device fails.
    pub fn next(&mut self, device: &Device, in_flight: usize) -> Result<Option<Metrics>> {
        let Some(oldest) = self.pending.front() else { return Ok(None) };
        if self.pending.len() > in_flight {
            device.wait(Some(oldest.submission.clone()))?;
        } else {
            device.check()?;
            if oldest.arrived.try_recv().is_err() {
                return Ok(None);
            }
        }
        let Some(Pending { staging, .. }) = self.pending.pop_front() else { return Ok(None) };
        let view = staging.get_mapped_range(..BYTES);
        let view = view.map_err(|e| Error::Device { device: device.info().to_string(), reason: e.to_string() })?;
        let metrics = bytemuck::pod_read_unaligned(&view);
        drop(view);
        staging.unmap();
        self.idle.push(staging);
        Ok(Some(metrics))
    }
}
