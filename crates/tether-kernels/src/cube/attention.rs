//! Options of attention on the device.

use cubecl::prelude::*;
use cubecl::server::Handle;
use tether_core::{AttendOptions, CoreError};

use super::CubeIndices;
use crate::ops::decode::Shaping;

/// Uploaded [`AttendOptions`].
#[derive(Clone, Debug)]
pub struct CubeAttention {
    pub(crate) options: AttendOptions,
    /// Slopes of the query heads, and then their sinks, `f32`, and how many numbers; none for a scale and nothing else.
    pub(crate) per_head: Option<(Handle, usize)>,
}

impl CubeAttention {
    pub(super) fn new<R: Runtime>(
        client: &ComputeClient<R>,
        options: &AttendOptions,
    ) -> Result<Self, CoreError> {
        options.validate()?;
        let per_head = (!options.is_plain()).then(|| {
            let heads = options.alibi.len().max(options.sinks.len()).max(1);
            let mut numbers = vec![0f32; 2 * heads];
            numbers[..options.alibi.len()].copy_from_slice(&options.alibi);
            numbers[heads..][..options.sinks.len()].copy_from_slice(&options.sinks);
            (client.create_from_slice(f32::as_bytes(&numbers)), numbers.len())
        });
        Ok(Self { options: options.clone(), per_head })
    }

    /// With positions of a pool's rows and of new tokens; none for a scale and nothing else.
    pub(super) fn shaping<'a>(
        &'a self,
        positions: Option<(&'a CubeIndices, &'a CubeIndices)>,
    ) -> Option<Shaping<'a>> {
        let per_head = self.per_head.as_ref()?;
        Some(Shaping { options: &self.options, per_head, positions })
    }
}
