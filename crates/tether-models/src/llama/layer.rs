//! One transformer block's weights.

use super::config::LlamaConfig;
use super::gguf::Tensors;
use super::matrix::Matrix;
use crate::ModelError;

#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    /// Queries, keys and values of all heads, in this order.
    pub(super) qkv: Matrix,
    pub(super) output: Matrix,
    pub(super) ffn_norm: Vec<f32>,
    /// The gate, then what it multiplies.
    pub(super) gate_up: Matrix,
    pub(super) down: Matrix,
}

impl Layer {
    pub(super) fn load(
        tensors: &mut Tensors<'_>,
        config: &LlamaConfig,
        layer: usize,
    ) -> Result<Self, ModelError> {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let &LlamaConfig { dim, ffn, head_dim, .. } = config;
        let (q_dim, kv_dim) = (config.query_heads * head_dim, config.kv_heads * head_dim);
        let q = tensors.matrix(&name("attn_q"), q_dim, dim)?.reordered(|row| stored_row(row, head_dim));
        let k = tensors.matrix(&name("attn_k"), kv_dim, dim)?.reordered(|row| stored_row(row, head_dim));
        let v = tensors.matrix(&name("attn_v"), kv_dim, dim)?;
        let gate = tensors.matrix(&name("ffn_gate"), ffn, dim)?;
        let up = tensors.matrix(&name("ffn_up"), ffn, dim)?;
        Ok(Self {
            attention_norm: tensors.vector(&name("attn_norm"), dim)?,
            qkv: Matrix::stacked(&[&q, &k, &v]),
            output: tensors.matrix(&name("attn_output"), dim, q_dim)?,
            ffn_norm: tensors.vector(&name("ffn_norm"), dim)?,
            gate_up: Matrix::stacked(&[&gate, &up]),
            down: tensors.matrix(&name("ffn_down"), dim, ffn)?,
        })
    }
}

/// Where a file keeps channel `row` of the queries or keys. Files have the two channels of a rotated pair side by side; here they are
/// half a head apart, as in the model's original weights and in every cache policy's published code.
fn stored_row(row: usize, head_dim: usize) -> usize {
    let (head, channel) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + 2 * (channel % half) + channel / half
}

#[cfg(test)]
mod tests {
    use super::stored_row;

    #[test]
    fn pairs_come_apart() {
        let rows: Vec<usize> = (0..12).map(|row| stored_row(row, 6)).collect();
        assert_eq!(rows, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
