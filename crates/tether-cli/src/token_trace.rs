//! Token traces: queries, keys and values of a language model's layers in a safetensors file.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use tethercache::core::{DType, TensorData};
use tethercache::score::ScoreError;
use tethercache::score::tokens::{GridPlace, RecordedTokens};

use crate::trace::TraceError;

/// One recorded layer.
#[derive(Debug)]
pub(crate) struct RecordedLayer {
    /// What its tensors' names begin with: empty, or `layer7.`.
    pub(crate) prefix: String,
    /// Its number; 0 where names do not say.
    pub(crate) layer: usize,
    pub(crate) seen: RecordedTokens,
}

/// A token trace.
#[derive(Debug)]
pub(crate) struct TokenTrace {
    pub(crate) layers: Vec<RecordedLayer>,
}

/// The layer of a tensor named `[layerL.]side`, `None` without one.
fn parse_name(name: &str) -> (Option<u32>, &str) {
    let split = name.strip_prefix("layer").and_then(|rest| rest.split_once('.'));
    match split.and_then(|(digits, side)| Some((digits.parse().ok()?, side))) {
        Some((layer, side)) => (Some(layer), side),
        None => (None, name),
    }
}

impl TokenTrace {
    /// True for a file that holds keys of single tokens.
    pub(crate) fn is_one(file: &SafeTensors<'_>) -> bool {
        file.names().iter().any(|n| matches!(parse_name(n).1, "k_post" | "k_pre"))
    }

    /// Reads a token trace out of `file`.
    ///
    /// # Errors
    /// [`TraceError`] for whatever is missing or of the wrong shape or type.
    pub(crate) fn read(path: &Path, file: &SafeTensors<'_>) -> Result<Self, TraceError> {
        // Names are kept as written, whatever the number of digits.
        let mut sides: BTreeMap<Option<u32>, BTreeMap<String, String>> = BTreeMap::new();
        for name in file.names() {
            let (layer, side) = parse_name(name);
            sides.entry(layer).or_default().insert(side.to_owned(), name.to_owned());
        }
        let common = sides.get(&None).cloned().unwrap_or_default();
        let mut layers = Vec::new();
        for (layer, names) in &sides {
            if !["k_post", "k_pre"].iter().any(|s| names.contains_key(*s)) {
                continue;
            }
            let source = Source { path, file, names, common: &common };
            let prefix = names
                .iter()
                .find_map(|(side, name)| name.strip_suffix(side.as_str()))
                .unwrap_or_default()
                .to_owned();
            let seen = source.layer(&prefix)?;
            layers.push(RecordedLayer { prefix, layer: layer.map_or(0, |l| l as usize), seen });
        }
        Ok(Self { layers })
    }
}

/// The tensors of one layer, and those of the whole file.
struct Source<'a> {
    path: &'a Path,
    file: &'a SafeTensors<'a>,
    names: &'a BTreeMap<String, String>,
    common: &'a BTreeMap<String, String>,
}

type Floats = (Vec<usize>, Vec<f32>);

impl Source<'_> {
    fn layer(&self, prefix: &str) -> Result<RecordedTokens, TraceError> {
        let must = |side: &str, found: Option<Floats>| {
            found.ok_or_else(|| TraceError::Missing { name: format!("{prefix}{side}") })
        };
        let (k_shape, keys) = must("k_post", self.heads("k_post")?)?;
        let (v_shape, values) = must("v", self.heads("v")?)?;
        let &[kv_heads, tokens, dim] = k_shape.as_slice() else { return Err(self.no_layer(prefix)) };
        self.fits("v", &v_shape, &[kv_heads, tokens, *v_shape.last().unwrap_or(&0)])?;
        let (queries, raw_queries) = (self.heads("q_post")?, self.heads("q_pre")?);
        let sums = self.attention_sums(tokens)?;
        let with_heads = [&queries, &raw_queries, &sums];
        let query_heads = with_heads.into_iter().flatten().next().map_or(kv_heads, |(shape, _)| shape[0]);
        let bad = |source: ScoreError| TraceError::Observation {
            path: self.path.to_owned(),
            prefix: prefix.to_owned(),
            source,
        };
        let dims = (dim, *v_shape.last().unwrap_or(&0));
        let mut seen =
            RecordedTokens::new((query_heads, kv_heads), tokens, dims, keys, values).map_err(bad)?;
        if let Some((shape, raw)) = self.heads("k_pre")? {
            self.fits("k_pre", &shape, &k_shape)?;
            seen = seen.with_raw_keys(raw).map_err(bad)?;
        }
        if let Some((shape, queries)) = queries {
            self.fits("q_post", &shape, &[query_heads, shape[1].min(tokens), dim])?;
            seen = seen.with_queries(queries).map_err(bad)?;
        }
        if let Some((shape, raw)) = raw_queries {
            self.fits("q_pre", &shape, &[query_heads, shape[1].min(tokens), dim])?;
            seen = seen.with_raw_queries(raw).map_err(bad)?;
        }
        if let Some((shape, sums)) = sums {
            self.fits("attention_sums", &shape, &[query_heads, tokens])?;
            seen = seen.with_attention_sums(sums).map_err(bad)?;
        }
        if let Some(positions) = self.integers("positions")? {
            seen = seen.with_positions(positions).map_err(bad)?;
        }
        if let Some((shape, frequencies)) = self.floats("inv_freq")? {
            self.fits("inv_freq", &shape, &[frequencies.len().min(dim / 2)])?;
            seen = seen.with_frequencies(frequencies.into_iter().map(f64::from).collect());
        }
        if let Some((_, weights)) = self.floats("o_proj_weight")? {
            seen = seen.with_output_projection(weights).map_err(bad)?;
        }
        if let (Some((q_shape, queries)), Some((k_shape, keys))) =
            (self.heads("probe_q_post")?, self.heads("probe_k_post")?)
        {
            self.fits("probe_q_post", &q_shape, &[query_heads, q_shape[1], dim])?;
            self.fits("probe_k_post", &k_shape, &[kv_heads, q_shape[1], dim])?;
            seen = seen.with_probes(queries, keys).map_err(bad)?;
        }
        if let Some(places) = self.integers("grid")? {
            let places = places.chunks(3).map(|p| match *p {
                // Text has negative numbers.
                [frame, row, column] => {
                    let [frame, row, column] = [frame, row, column].map(u32::try_from);
                    Some(GridPlace { frame: frame.ok()?, row: row.ok()?, column: column.ok()? })
                }
                _ => None,
            });
            seen = seen.with_grid(places.collect()).map_err(bad)?;
        }
        Ok(seen)
    }

    /// What each token got of all queries' attention, `[query_heads, tokens]`: summed already, or `attention` `[query_heads, queries, tokens]`, whose rows are added.
    fn attention_sums(&self, tokens: usize) -> Result<Option<Floats>, TraceError> {
        if let Some((shape, sums)) = self.floats("attention_sums")? {
            self.fits("attention_sums", &shape, &[shape.first().copied().unwrap_or(1), tokens])?;
            return Ok(Some((shape, sums)));
        }
        let Some((shape, rows)) = self.heads("attention")? else { return Ok(None) };
        self.fits("attention", &shape, &[shape[0], shape[1], tokens])?;
        let mut sums = vec![0f64; shape[0] * tokens];
        for (head, rows) in sums.chunks_exact_mut(tokens).zip(rows.chunks_exact(shape[1] * tokens)) {
            for row in rows.chunks_exact(tokens) {
                head.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
            }
        }
        Ok(Some((vec![shape[0], tokens], sums.into_iter().map(|x| x as f32).collect())))
    }

    fn no_layer(&self, prefix: &str) -> TraceError {
        TraceError::Missing { name: format!("{prefix}k_post") }
    }

    fn name(&self, side: &str) -> Option<&String> {
        self.names.get(side).or_else(|| self.common.get(side))
    }

    fn fits(&self, side: &str, got: &[usize], expected: &[usize]) -> Result<(), TraceError> {
        if got == expected {
            return Ok(());
        }
        let name = self.name(side).cloned().unwrap_or_default();
        Err(TraceError::Shape { name, expected: expected.to_vec(), got: got.to_vec() })
    }

    /// A tensor of three extents, none of them 0.
    fn heads(&self, side: &str) -> Result<Option<Floats>, TraceError> {
        let found = self.floats(side)?;
        if let Some((shape, _)) = &found
            && (shape.len() != 3 || shape.contains(&0))
        {
            self.fits(side, shape, &[1, 1, 1])?;
        }
        Ok(found)
    }

    fn floats(&self, side: &str) -> Result<Option<Floats>, TraceError> {
        let Some(name) = self.name(side) else { return Ok(None) };
        let view = self.file.tensor(name).map_err(|_| TraceError::Missing { name: name.clone() })?;
        let wrong = || TraceError::DType { name: name.clone(), expected: DType::F32, got: view.dtype() };
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            _ => return Err(wrong()),
        };
        let data = TensorData::from_le_bytes(dtype, view.data()).ok_or_else(wrong)?;
        if let Some(index) = data.first_non_finite() {
            let source = tethercache::core::CoreError::NonFinite { what: "the trace", index };
            return Err(TraceError::Tensor { name: name.clone(), source });
        }
        Ok(Some((view.shape().to_vec(), data.widened(0..data.len()).into_owned())))
    }

    fn integers(&self, side: &str) -> Result<Option<Vec<i32>>, TraceError> {
        let Some(name) = self.name(side) else { return Ok(None) };
        let view = self.file.tensor(name).map_err(|_| TraceError::Missing { name: name.clone() })?;
        let integers: Option<Vec<i32>> = match view.dtype() {
            Dtype::I32 => Some(view.data().as_chunks().0.iter().map(|&b| i32::from_le_bytes(b)).collect()),
            Dtype::I64 => {
                let wide = view.data().as_chunks().0.iter().map(|&b| i64::from_le_bytes(b));
                wide.map(|x| i32::try_from(x).ok()).collect()
            }
            _ => None,
        };
        match integers {
            Some(integers) => Ok(Some(integers)),
            None => Err(TraceError::Integers { name: name.clone(), got: view.dtype() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_name;

    #[test]
    fn names_say_layer_and_side() {
        assert_eq!(parse_name("layer10.k_post"), (Some(10), "k_post"));
        assert_eq!(parse_name("k_post"), (None, "k_post"));
        for name in ["layerX.k_post", "layer99999999999.k", "layer3", "layer.k"] {
            assert_eq!(parse_name(name), (None, name));
        }
    }
}
