//! Images from which kernels for CPU devices read their operands: a driver for the CPU fetches texels several times as fast as it loads
//! from buffers.

use crate::graph::IMAGE_ROW;

/// The device's name for the format of a shader's texels.
pub(super) fn format(texel: naga::StorageFormat) -> wgpu::TextureFormat {
    match texel {
        naga::StorageFormat::R32Uint => wgpu::TextureFormat::R32Uint,
        naga::StorageFormat::Rg32Uint => wgpu::TextureFormat::Rg32Uint,
        naga::StorageFormat::Rgba32Uint => wgpu::TextureFormat::Rgba32Uint,
        naga::StorageFormat::Rgba32Float => wgpu::TextureFormat::Rgba32Float,
        other => panic!("no kernel reads an image of {other:?}"),
    }
}

/// The extent of an image that holds this many bytes.
pub(super) fn extent(bytes: u64, format: wgpu::TextureFormat) -> wgpu::Extent3d {
    let texel_bytes = format.block_copy_size(None).expect("a format of one plane");
    let rows = bytes.div_ceil(IMAGE_ROW.into()).max(1) as u32;
    // llvmpipe compiles a kernel anew for images with a power of two of rows, which is never worth the time. A row more is within the
    // limits of every device.
    let height = if rows.is_power_of_two() && rows < 4096 { rows.max(2) + 1 } else { rows };
    wgpu::Extent3d { width: IMAGE_ROW / texel_bytes, height, depth_or_array_layers: 1 }
}

/// A copy of a tensor's bytes to an image.
#[derive(Clone, PartialEq)]
pub(super) struct ImageCopy {
    pub(super) buffer: wgpu::Buffer,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) image: wgpu::Texture,
}

impl ImageCopy {
    /// Copies whole rows, then the rest.
    pub(super) fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let (width, row) = (self.image.width(), u64::from(IMAGE_ROW));
        let rows = (self.bytes / row) as u32;
        let rest = (self.bytes % row * u64::from(width) / row) as u32;
        for (y, width, height) in [(0, width, rows), (rows, rest, 1)] {
            if width * height == 0 {
                continue;
            }
            let layout = wgpu::TexelCopyBufferLayout {
                offset: self.offset + u64::from(y) * row,
                bytes_per_row: Some(IMAGE_ROW),
                rows_per_image: None,
            };
            let to = wgpu::TexelCopyTextureInfo { origin: wgpu::Origin3d { x: 0, y, z: 0 }, ..self.image.as_image_copy() };
            let size = wgpu::Extent3d { width, height, depth_or_array_layers: 1 };
            encoder.copy_buffer_to_texture(wgpu::TexelCopyBufferInfo { buffer: &self.buffer, layout }, to, size);
        }
    }
}
