//! Chunked traces: recorded queries, keys and values in a safetensors file, settings in a JSON file of the same stem.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tethercache::core::{CoreError, DType, Geometry, HostTensor, RopeKind, TensorData};
use tethercache::score::ScoreError;

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a usable settings file")]
    Settings { path: PathBuf, source: serde_json::Error },
    #[error("{path} is not a whole safetensors file")]
    Container { path: PathBuf, source: safetensors::SafeTensorError },
    #[error("{path}: setting {name} = {value}: {requirement}")]
    SettingRange { path: PathBuf, name: &'static str, value: String, requirement: &'static str },
    #[error("{path} holds no chunked trace: no tensor is named like c00.p0.q")]
    NoPasses { path: PathBuf },
    #[error("the trace lacks tensor {name}")]
    Missing { name: String },
    #[error("tensor {name}: expected shape {expected:?}, got {got:?}")]
    Shape { name: String, expected: Vec<usize>, got: Vec<usize> },
    #[error("tensor {name}: expected dtype {expected}, got {got:?}")]
    DType { name: String, expected: DType, got: Dtype },
    #[error("{path} describes no usable cache")]
    Geometry { path: PathBuf, source: CoreError },
    #[error("tensor {name}")]
    Tensor { name: String, source: CoreError },
    #[error("tensor {name}: expected i32 or i64 within 32 bits, got {got:?}")]
    Integers { name: String, got: Dtype },
    #[error("{path}: tensors {prefix}* do not fit each other")]
    Observation { path: PathBuf, prefix: String, source: ScoreError },
}

/// A trace's JSON file. Counts are in frames.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Settings {
    #[serde(rename = "S")]
    pub(crate) sink: usize,
    #[serde(rename = "M")]
    pub(crate) memory: usize,
    #[serde(rename = "R")]
    pub(crate) recent: usize,
    #[serde(rename = "K")]
    pub(crate) capacity: usize,
    /// One of `C` and `chunk`, or both and the same.
    #[serde(rename = "C")]
    c: Option<usize>,
    #[serde(rename = "chunk")]
    chunk: Option<usize>,
    pub(crate) h: usize,
    pub(crate) w: usize,
    #[serde(rename = "F")]
    pub(crate) frame: usize,
    #[serde(rename = "H")]
    pub(crate) heads: usize,
    #[serde(rename = "D")]
    pub(crate) dim: usize,
    pub(crate) alpha: f64,
    pub(crate) tau: f64,
    pub(crate) temperature: f64,
    pub(crate) dtype: String,
}

impl Settings {
    /// Frames of a chunk; 0 when the file does not say, or says two things.
    pub(crate) fn chunk(&self) -> usize {
        match (self.c, self.chunk) {
            (Some(a), Some(b)) if a != b => 0,
            (a, b) => a.or(b).unwrap_or(0),
        }
    }
}

/// One pass of one layer.
#[derive(Debug)]
pub(crate) struct RecordedPass {
    pub(crate) q: HostTensor,
    pub(crate) k: HostTensor,
    pub(crate) v: HostTensor,
}

/// A chunked trace: `passes[chunk][pass][layer]`; the last pass of a chunk is the clean one.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) settings: Settings,
    pub(crate) geometry: Geometry,
    pub(crate) passes: Vec<Vec<Vec<RecordedPass>>>,
    /// Name prefix of each layer: empty, or `l00.`.
    pub(crate) prefixes: Vec<String>,
}

/// What a tensor's name says: `[lNN.]cCC.pP.{q,k,v}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    layer: Option<usize>,
    chunk: usize,
    pass: usize,
}

fn parse_name(name: &str) -> Option<(Place, &str)> {
    let number = |part: &str, letter: char| -> Option<usize> {
        let digits = part.strip_prefix(letter)?;
        // 32 bits, so that no sum of such numbers overflows.
        let number: u32 =
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()?;
        usize::try_from(number).ok()
    };
    let mut parts = name.split('.').peekable();
    let layer = parts.peek().and_then(|p| number(p, 'l'));
    if layer.is_some() {
        parts.next();
    }
    let chunk = number(parts.next()?, 'c')?;
    let pass = number(parts.next()?, 'p')?;
    let side = parts.next()?;
    parts.next().is_none().then_some((Place { layer, chunk, pass }, side))
}

/// The bytes of a file.
///
/// # Errors
/// [`TraceError::Read`].
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TraceError> {
    std::fs::read(path).map_err(|source| TraceError::Read { path: path.to_owned(), source })
}

/// The safetensors container in `bytes`, which were read from `path`.
///
/// # Errors
/// [`TraceError::Container`].
pub(crate) fn container<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>, TraceError> {
    SafeTensors::deserialize(bytes).map_err(|source| TraceError::Container { path: path.to_owned(), source })
}

impl Trace {
    /// Reads a chunked trace out of `file`, which is at `path`, and the JSON file beside it.
    ///
    /// # Errors
    /// [`TraceError`] for whatever is missing, truncated, of the wrong shape or type, or out of range.
    pub(crate) fn read(path: &Path, file: &SafeTensors<'_>) -> Result<Self, TraceError> {
        let json = path.with_extension("json");
        let settings: Settings = serde_json::from_slice(&read(&json)?)
            .map_err(|source| TraceError::Settings { path: json.clone(), source })?;

        // Names are kept as written, whatever the number of digits.
        let mut names: BTreeMap<(Place, String), String> = BTreeMap::new();
        for name in file.names() {
            if let Some((place, side @ ("q" | "k" | "v"))) = parse_name(name) {
                names.insert((place, side.to_owned()), name.to_owned());
            }
        }
        let places: Vec<Place> = names.keys().map(|(p, _)| *p).collect();
        let Some(chunks) = places.iter().map(|p| p.chunk + 1).max() else {
            return Err(TraceError::NoPasses { path: path.to_owned() });
        };
        let layered = places.iter().filter_map(|p| p.layer).max();
        let layers = layered.map_or(1, |l| l + 1);
        // A name with a huge number asks for names that are not there; say so before anything is allocated by it.
        let implied = chunks.saturating_mul(layers);
        if implied > names.len() {
            let first = (0..chunks)
                .flat_map(|c| (0..layers).map(move |l| (c, l)))
                .find(|&(c, l)| !places.iter().any(|p| p.chunk == c && p.layer == layered.map(|_| l)));
            let (c, l) = first.unwrap_or((0, 0));
            return Err(TraceError::Missing { name: format!("{}c{c:02}.p0.q", prefix(layered.map(|_| l))) });
        }
        let first = places.first().copied().unwrap_or(Place { layer: None, chunk: 0, pass: 0 });
        let sequences = names
            .get(&(first, "q".to_owned()))
            .and_then(|n| file.tensor(n).ok())
            .and_then(|t| t.shape().first().copied())
            .unwrap_or(1);
        let geometry = geometry(&settings, &json, layers, sequences)?;

        let mut passes = Vec::with_capacity(chunks);
        for chunk in 0..chunks {
            let count = places.iter().filter(|p| p.chunk == chunk).map(|p| p.pass + 1).max().unwrap_or(1);
            let mut of_chunk = Vec::new();
            for pass in 0..count {
                let mut of_pass = Vec::with_capacity(layers);
                for layer in 0..layers {
                    let layer = layered.map(|_| layer);
                    let tensor = |side: &str, shape: &[usize]| {
                        let stem = format!("{}c{chunk:02}.p{pass}.{side}", prefix(layer));
                        let name = names.get(&(Place { layer, chunk, pass }, side.to_owned()));
                        let name = name.ok_or(TraceError::Missing { name: stem })?;
                        load(file, name, shape, geometry.dtype)
                    };
                    let shape = geometry.key_shape();
                    of_pass.push(RecordedPass {
                        q: tensor("q", &shape)?,
                        k: tensor("k", &shape)?,
                        v: tensor("v", &shape)?,
                    });
                }
                of_chunk.push(of_pass);
            }
            passes.push(of_chunk);
        }
        let prefixes = (0..layers).map(|l| prefix(layered.map(|_| l))).collect();
        Ok(Self { settings, geometry, passes, prefixes })
    }
}

fn prefix(layer: Option<usize>) -> String {
    layer.map(|l| format!("l{l:02}.")).unwrap_or_default()
}

fn geometry(s: &Settings, json: &Path, layers: usize, sequences: usize) -> Result<Geometry, TraceError> {
    let bad = |name, value: String, requirement| {
        Err(TraceError::SettingRange { path: json.to_owned(), name, value, requirement })
    };
    if s.sink.checked_add(s.memory).and_then(|n| n.checked_add(s.recent)) != Some(s.capacity) {
        return bad("K", s.capacity.to_string(), "must be S + M + R");
    }
    if s.h.checked_mul(s.w) != Some(s.frame) {
        return bad("F", s.frame.to_string(), "must be h * w");
    }
    if s.chunk() == 0 {
        return bad(
            "C",
            format!("{:?} and chunk = {:?}", s.c, s.chunk),
            "one of them must be given, and at least 1",
        );
    }
    if s.recent < s.chunk() {
        return bad("R", s.recent.to_string(), "must hold a chunk");
    }
    if !(0.0..=1.0).contains(&s.tau) {
        return bad("tau", s.tau.to_string(), "must lie in [0, 1]");
    }
    if !(s.alpha >= 0.0 && s.alpha.is_finite()) {
        return bad("alpha", s.alpha.to_string(), "must be at least 0");
    }
    if !(s.temperature > 0.0 && s.temperature.is_finite()) {
        return bad("temperature", s.temperature.to_string(), "must be greater than 0");
    }
    let dtype = match s.dtype.trim_start_matches("torch.") {
        "float32" | "f32" => DType::F32,
        "float16" | "half" | "f16" => DType::F16,
        "bfloat16" | "bf16" => DType::BF16,
        _ => return bad("dtype", s.dtype.clone(), "must be float32, float16 or bfloat16"),
    };
    let geometry = Geometry {
        layers,
        query_heads: s.heads,
        kv_heads: s.heads,
        head_dim_k: s.dim,
        head_dim_v: s.dim,
        tokens_per_unit: s.frame,
        units_per_chunk: s.chunk(),
        sequences,
        dtype,
        rope: RopeKind::wan(s.h, s.w),
    };
    geometry.validate().map_err(|source| TraceError::Geometry { path: json.to_owned(), source })?;
    Ok(geometry)
}

/// Tensor `name`, whose recorded shape is `shape` with a leading batch axis.
fn load(file: &SafeTensors<'_>, name: &str, shape: &[usize], dtype: DType) -> Result<HostTensor, TraceError> {
    let view = file.tensor(name).map_err(|_| TraceError::Missing { name: name.to_owned() })?;
    let mut batched = shape.to_vec();
    if batched.len() == 3 {
        batched.insert(0, 1);
    }
    if view.shape() != batched {
        let got = view.shape().to_vec();
        return Err(TraceError::Shape { name: name.to_owned(), expected: batched, got });
    }
    let wrong = || TraceError::DType { name: name.to_owned(), expected: dtype, got: view.dtype() };
    match (view.dtype(), dtype) {
        (Dtype::F32, DType::F32) | (Dtype::F16, DType::F16) | (Dtype::BF16, DType::BF16) => {}
        _ => return Err(wrong()),
    }
    let data = TensorData::from_le_bytes(dtype, view.data()).ok_or_else(wrong)?;
    HostTensor::new(shape, data).map_err(|source| TraceError::Tensor { name: name.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::{Place, parse_name};

    #[test]
    fn names_say_layer_chunk_pass_and_side() {
        let place = |layer, chunk, pass| Place { layer, chunk, pass };
        assert_eq!(parse_name("c00.p2.q"), Some((place(None, 0, 2), "q")));
        assert_eq!(parse_name("l07.c113.p0.cache_k"), Some((place(Some(7), 113, 0), "cache_k")));
        for name in
            ["c0.q", "q", "c-1.p0.q", "c+1.p0.q", "c0.p0.q.q", "l0.p0.q", "c99999999999999999999.p0.q"]
        {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
