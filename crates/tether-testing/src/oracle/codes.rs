//! Quantisation, element by element.

use tether_codec::{Bits, CodeProblem, Format, Grouping, HostCodes, MIN_SCALE_RANGE};

/// What quantisation should come to, before packing.
#[derive(Clone, Debug, PartialEq)]
pub struct LiteralCodes {
    /// The format.
    pub format: Format,
    /// Shape of what was quantised.
    pub shape: Vec<usize>,
    /// Each element in steps of its scale, before rounding.
    pub steps: Vec<f64>,
    /// Scales, of [`CodeProblem::scale_shape`].
    pub scales: Vec<f64>,
    /// Zeros, of the same shape; empty for [`Grouping::Token`].
    pub zeros: Vec<f64>,
}

/// Number of the scale that element `element` shares.
pub fn scale_of(problem: &CodeProblem, element: usize) -> usize {
    let CodeProblem { heads, head_dim, format, .. } = *problem;
    match format.grouping {
        Grouping::Token => element / head_dim,
        Grouping::Channel(size) => {
            let channels = heads * head_dim;
            element / channels / size * channels + element % channels
        }
    }
}

/// Quantises `x` `[.., heads, head_dim]`.
///
/// # Panics
/// When the shape does not suit the format.
pub fn literal_codes(x: &[f32], shape: &[usize], format: Format) -> LiteralCodes {
    let problem = CodeProblem::new(shape, format).expect("a case's shape should suit its format");
    let groups: usize = problem.scale_shape().iter().product();
    let (mut low, mut high) = (vec![f64::INFINITY; groups], vec![f64::NEG_INFINITY; groups]);
    for (i, &x) in x.iter().enumerate() {
        let group = scale_of(&problem, i);
        low[group] = low[group].min(x.into());
        high[group] = high[group].max(x.into());
    }
    let least = f64::from(MIN_SCALE_RANGE);
    let (scales, zeros): (Vec<f64>, Vec<f64>) = low
        .iter()
        .zip(&high)
        .map(|(&low, &high)| match format.grouping {
            Grouping::Token => {
                (low.abs().max(high.abs()).max(least) / f64::from(format.bits.signed_max()), 0.0)
            }
            Grouping::Channel(_) => ((high - low).max(least) / f64::from(format.bits.levels()), low),
        })
        .unzip();
    let steps = x.iter().enumerate().map(|(i, &x)| {
        let group = scale_of(&problem, i);
        (f64::from(x) - zeros[group]) / scales[group]
    });
    let steps = steps.collect();
    let zeros = if format.grouping == Grouping::Token { Vec::new() } else { zeros };
    LiteralCodes { format, shape: shape.to_vec(), steps, scales, zeros }
}

impl LiteralCodes {
    /// Rounded (halves away from zero) and packed.
    pub fn packed(&self) -> HostCodes {
        let head_dim = self.shape[self.shape.len() - 1];
        let bits = self.format.bits;
        let mut codes = vec![0u8; self.steps.len() / head_dim.max(1) * bits.bytes(head_dim)];
        for (i, step) in self.steps.iter().enumerate() {
            let code = step.round() as i32;
            let (head, channel) = (i / head_dim, i % head_dim);
            match (bits, self.format.grouping) {
                (Bits::Eight, Grouping::Token) => codes[i] = (code as i8).cast_unsigned(),
                (Bits::Eight, Grouping::Channel(_)) => codes[i] = code as u8,
                (Bits::Four, grouping) => {
                    let stored = if grouping == Grouping::Token { code + 8 } else { code } as u8;
                    let half = head_dim / 2;
                    codes[head * half + channel % half] |= stored << (4 * (channel / half));
                }
            }
        }
        HostCodes {
            shape: self.shape.as_slice().into(),
            format: self.format,
            codes,
            scales: self.scales.iter().map(|&x| x as f32).collect(),
            zeros: self.zeros.iter().map(|&x| x as f32).collect(),
        }
    }
}

/// The integer of each element.
pub fn unpacked_codes(codes: &HostCodes) -> Vec<i32> {
    let head_dim = codes.shape[codes.shape.len() - 1];
    (0..codes.shape.iter().product())
        .map(|i| {
            let (head, channel) = (i / head_dim, i % head_dim);
            match (codes.format.bits, codes.format.grouping) {
                (Bits::Eight, Grouping::Token) => i32::from(codes.codes[i].cast_signed()),
                (Bits::Eight, Grouping::Channel(_)) => i32::from(codes.codes[i]),
                (Bits::Four, grouping) => {
                    let half = head_dim / 2;
                    let stored = codes.codes[head * half + channel % half] >> (4 * (channel / half)) & 15;
                    i32::from(stored) - if grouping == Grouping::Token { 8 } else { 0 }
                }
            }
        })
        .collect()
}

/// Each element's `code * scale` and zero, whose sum it stands for.
///
/// # Panics
/// When the parts do not fit each other.
pub fn literal_dequantised(codes: &HostCodes) -> Vec<(f64, f64)> {
    let problem = codes.check().expect("codes should fit their shape");
    let element = |(i, code): (usize, i32)| {
        let group = scale_of(&problem, i);
        let zero = codes.zeros.get(group).copied().unwrap_or(0.0);
        (f64::from(code) * f64::from(codes.scales[group]), f64::from(zero))
    };
    unpacked_codes(codes).into_iter().enumerate().map(element).collect()
}
