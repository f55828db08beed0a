//! Operations on codes, passed on.

use half::f16;
use tether_codec::{
    CodecEngine, Format, HostCodes, HostSpherical, SphericalEngine, SphericalFormat, SphericalFrame,
};
use tether_core::{CoreError, DType};

use super::super::watch::Bytes;
use super::{Call, Faulty, list};

/// Bytes of codes and what goes beside them.
fn of_codes(codes: &HostCodes) -> u64 {
    list(&codes.codes) + list(&codes.scales) + list(&codes.zeros)
}

impl<E: CodecEngine> CodecEngine for Faulty<E> {
    type Codes = E::Codes;

    fn quantise(&self, x: &E::Tensor, format: Format) -> Result<E::Codes, CoreError> {
        self.enter(Call::Quantise, Bytes::None)?;
        self.engine.quantise(x, format)
    }

    fn dequantise(&self, codes: &E::Codes, dtype: DType) -> Result<E::Tensor, CoreError> {
        self.enter(Call::Dequantise, Bytes::None)?;
        self.engine.dequantise(codes, dtype)
    }

    fn upload_codes(&self, codes: &HostCodes) -> Result<E::Codes, CoreError> {
        self.enter(Call::UploadCodes, Bytes::ToDevice(of_codes(codes)))?;
        self.engine.upload_codes(codes)
    }

    fn read_codes(&self, codes: &E::Codes) -> Result<HostCodes, CoreError> {
        self.enter(Call::ReadCodes, Bytes::None)?;
        let read = self.engine.read_codes(codes)?;
        self.watch.arrived(Call::ReadCodes, of_codes(&read));
        Ok(read)
    }

    fn decode_codes(
        &self,
        q: &E::Tensor,
        k: &E::Codes,
        v: &E::Codes,
        tables: &E::Tables,
        scale: f32,
    ) -> Result<(E::Tensor, E::Tensor), CoreError> {
        self.enter(Call::DecodeCodes, Bytes::None)?;
        self.engine.decode_codes(q, k, v, tables, scale)
    }
}

impl<E: SphericalEngine> SphericalEngine for Faulty<E> {
    type Spherical = E::Spherical;
    type Frame = E::Frame;

    fn upload_frame(&self, frame: &SphericalFrame) -> Result<E::Frame, CoreError> {
        // Means as they are, and a sign for each channel of the rotation.
        let bytes = list::<f16>(frame.means()) + frame.head_dim() as u64;
        self.enter(Call::UploadFrame, Bytes::ToDevice(bytes))?;
        self.engine.upload_frame(frame)
    }

    fn quantise_spherical(
        &self,
        x: &E::Tensor,
        frame: &E::Frame,
        format: SphericalFormat,
    ) -> Result<E::Spherical, CoreError> {
        self.enter(Call::QuantiseSpherical, Bytes::None)?;
        self.engine.quantise_spherical(x, frame, format)
    }

    fn dequantise_spherical(
        &self,
        codes: &E::Spherical,
        frame: &E::Frame,
        dtype: DType,
    ) -> Result<E::Tensor, CoreError> {
        self.enter(Call::DequantiseSpherical, Bytes::None)?;
        self.engine.dequantise_spherical(codes, frame, dtype)
    }

    fn upload_spherical(&self, codes: &HostSpherical) -> Result<E::Spherical, CoreError> {
        self.enter(Call::UploadSpherical, Bytes::ToDevice(codes.bytes() as u64))?;
        self.engine.upload_spherical(codes)
    }

    fn read_spherical(&self, codes: &E::Spherical) -> Result<HostSpherical, CoreError> {
        self.enter(Call::ReadSpherical, Bytes::None)?;
        let read = self.engine.read_spherical(codes)?;
        self.watch.arrived(Call::ReadSpherical, read.bytes() as u64);
        Ok(read)
    }

    fn write_spherical(
        &self,
        pool: &mut E::Spherical,
        rows: &E::Indices,
        x: &E::Tensor,
        frame: &E::Frame,
    ) -> Result<(), CoreError> {
        self.enter(Call::WriteSpherical, Bytes::None)?;
        self.engine.write_spherical(pool, rows, x, frame)
    }

    fn write_spherical_pair(
        &self,
        pools: [&mut E::Spherical; 2],
        rows: &E::Indices,
        x: [&E::Tensor; 2],
        frames: [&E::Frame; 2],
    ) -> Result<(), CoreError> {
        self.enter(Call::WriteSpherical, Bytes::None)?;
        self.engine.write_spherical_pair(pools, rows, x, frames)
    }

    fn decode_spherical(
        &self,
        q: &E::Tensor,
        k: (&E::Spherical, &E::Frame),
        v: (&E::Spherical, &E::Frame),
        tables: &E::Tables,
        scale: f32,
    ) -> Result<(E::Tensor, E::Tensor), CoreError> {
        self.enter(Call::DecodeSpherical, Bytes::None)?;
        self.engine.decode_spherical(q, k, v, tables, scale)
    }
}
