//! Linear layers.

use tether_dense::{MatRef, matmul};

/// `y = x W^T + b`.
///
/// The weight is kept transposed, `[inputs, outputs]`: the matrix product then reads it without repacking.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    inputs: usize,
    outputs: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Linear {
    /// From a `[outputs, inputs]` row-major weight and an `[outputs]` bias, lengths already checked.
    pub(crate) fn new(weight: &[f32], bias: Vec<f32>) -> Self {
        Self::stacked(&[weight], bias)
    }

    /// Several layers with the same input as one layer with their outputs side by side.
    pub(crate) fn stacked(weights: &[&[f32]], bias: Vec<f32>) -> Self {
        let outputs = bias.len();
        let inputs = weights.iter().map(|w| w.len()).sum::<usize>() / outputs;
        let mut transposed = vec![0.0; inputs * outputs];
        for (o, row) in weights.iter().flat_map(|w| w.chunks_exact(inputs)).enumerate() {
            for (i, x) in row.iter().enumerate() {
                transposed[i * outputs + o] = *x;
            }
        }
        Self { inputs, outputs, weight: transposed, bias }
    }

    /// The bias, for callers that fuse it with what follows.
    pub(crate) fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// `y = x W^T` for every row of `x`.
    pub(crate) fn apply_unbiased(&self, x: &[f32], y: &mut [f32]) {
        let rows = x.len() / self.inputs;
        let x = MatRef::row_major(x, rows, self.inputs, self.inputs);
        let weight = MatRef::row_major(&self.weight, self.inputs, self.outputs, self.outputs);
        matmul(y, self.outputs, 0.0, x, weight);
    }

    /// `y = x W^T + b` for every row of `x`.
    pub(crate) fn apply(&self, x: &[f32], y: &mut [f32]) {
        self.apply_unbiased(x, y);
        for row in y.chunks_exact_mut(self.outputs) {
            for (y, b) in row.iter_mut().zip(&self.bias) {
                *y += b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Linear;

    #[test]
    fn stacking_puts_the_outputs_side_by_side() {
        let layer = Linear::stacked(&[&[1.0, 2.0], &[3.0, 4.0, 5.0, 6.0]], vec![0.5, 0.25, -1.0]);
        let mut y = [0.0; 6];
        layer.apply(&[1.0, 10.0, -1.0, 0.0], &mut y);
        assert_eq!(y, [21.5, 43.25, 64.0, -0.5, -2.75, -6.0]);
    }
}
