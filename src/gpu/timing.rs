//! How long each dispatch of a program takes, by the device's clock.

use super::device::Device;
use super::program::Program;
use crate::error::{Error, Result};

/// One dispatch of a program, measured.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Scope and kernel, such as `h3.attn_adapter.adapter.backward`.
    pub label: String,
    /// The kernel's file and entry point.
    pub kernel: String,
    /// How long the device took.
    pub seconds: f64,
    /// The bytes that it reads and writes, as far as known.
    pub bytes: u64,
    /// Its floating-point operations, if they were counted.
    pub operations: u64,
}

impl Program {
    /// Runs the line once, each dispatch in a separate pass between two timestamps, in submissions as long as those of a run.
    ///
    /// # Errors
    /// [`Error::Usage`] if the device does not support timestamps, or another error if the device fails.
    pub fn time(&self, device: &Device) -> Result<Vec<Timing>> {
        if !device.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(Error::Usage(format!("{} does not support timestamps; use another device or backend", device.info())));
        }
        const STAMP: u64 = wgpu::QUERY_SIZE as u64;
        let period = f64::from(device.queue.get_timestamp_period()) * 1e-9;
        let mut timings = Vec::with_capacity(self.launches.len());
        for submission in self.submissions(device) {
            // A query set can hold only this many queries.
            for launches in self.launches[submission].chunks(wgpu::QUERY_SET_MAX_QUERIES as usize / 2) {
                let count = 2 * launches.len() as u32;
                let queries =
                    device.device.create_query_set(&wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count });
                let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
                let stamps = device.buffer("timestamps", u64::from(count) * STAMP, usage)?;
                let mut encoder = device.device.create_command_encoder(&Default::default());
                for (i, launch) in (0..).zip(launches) {
                    let stamped = |begin, end, encoder: &mut wgpu::CommandEncoder| {
                        let writes = wgpu::ComputePassTimestampWrites {
                            query_set: &queries,
                            beginning_of_pass_write_index: begin,
                            end_of_pass_write_index: end,
                        };
                        let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes: Some(writes) };
                        encoder.begin_compute_pass(&descriptor).forget_lifetime()
                    };
                    let mut begin = Some(2 * i);
                    if launch.copies() {
                        // Copies are part of the dispatch and come before its pass.
                        drop(stamped(begin.take(), None, &mut encoder));
                        launch.copy(&mut encoder);
                    }
                    self.encode(&mut stamped(begin, Some(2 * i + 1), &mut encoder), launch);
                }
                encoder.resolve_query_set(&queries, 0..count, &stamps, 0);
                device.queue.submit([encoder.finish()]);
                let stamps: Vec<u64> = bytemuck::pod_collect_to_vec(&device.read(&stamps, 0, u64::from(count) * STAMP)?);
                timings.extend(launches.iter().zip(stamps.chunks(2)).map(|(launch, stamps)| Timing {
                    label: launch.label.clone(),
                    kernel: launch.kernel.clone(),
                    seconds: stamps[1].saturating_sub(stamps[0]) as f64 * period,
                    bytes: launch.bytes,
                    operations: launch.operations,
                }));
            }
        }
        Ok(timings)
    }
}
