//! Spherical codes, by dense matrices and searches.

use tether_codec::{HostSpherical, RadiusFit, SphericalBits, SphericalFormat, SphericalFrame};

/// What coding should come to, before rounding and packing.
#[derive(Clone, Debug, PartialEq)]
pub struct LiteralSpherical {
    /// Centred and rotated rows `[rows, head_dim]`.
    pub rotated: Vec<f64>,
    /// The same, each row scaled to the length `sqrt(head_dim)`; 0 where the row is.
    pub units: Vec<f64>,
    /// Number of the nearest level of each unit, the lower of two that are as near.
    pub codes: Vec<usize>,
}

/// Row `i`, column `j` of the rotation.
fn entry(frame: &SphericalFrame, i: usize, j: usize) -> f64 {
    let (mut start, mut left) = (0, frame.head_dim());
    loop {
        let block = 1usize << left.ilog2();
        if i < start + block {
            if j < start || j >= start + block {
                return 0.0;
            }
            let odd = ((i - start) & (j - start)).count_ones() % 2 == 1;
            let sign = f64::from(frame.rotation().signs()[j]);
            return if odd { -sign } else { sign } / (block as f64).sqrt();
        }
        (start, left) = (start + block, left - block);
    }
}

/// The rotation `[head_dim, head_dim]`, row-major.
pub fn rotation_matrix(frame: &SphericalFrame) -> Vec<f64> {
    let dim = frame.head_dim();
    (0..dim * dim).map(|i| entry(frame, i / dim, i % dim)).collect()
}

/// Codes rows `x` `[rows, head_dim]`, of which row `i` is of head `i % heads`.
pub fn literal_spherical(x: &[f32], frame: &SphericalFrame, bits: SphericalBits) -> LiteralSpherical {
    let dim = frame.head_dim();
    let matrix = rotation_matrix(frame);
    let (mut rotated, mut units) = (Vec::new(), Vec::new());
    for (row, x) in x.chunks_exact(dim).enumerate() {
        let mean = &frame.means()[row % frame.heads() * dim..][..dim];
        let centred: Vec<f64> = x.iter().zip(mean).map(|(x, m)| f64::from(*x) - m.to_f64()).collect();
        let y: Vec<f64> =
            matrix.chunks_exact(dim).map(|r| r.iter().zip(&centred).map(|(a, b)| a * b).sum()).collect();
        let norm = y.iter().map(|y| y * y).sum::<f64>().sqrt();
        let scale = if norm > 0.0 { (dim as f64).sqrt() / norm } else { 0.0 };
        units.extend(y.iter().map(|y| y * scale));
        rotated.extend(y);
    }
    let nearest = |u: &f64| {
        let distance = |level: &f32| (u - f64::from(*level)).abs();
        let levels = bits.levels().iter().enumerate();
        levels.min_by(|(_, a), (_, b)| distance(a).total_cmp(&distance(b))).map_or(0, |(code, _)| code)
    };
    let codes = units.iter().map(nearest).collect();
    LiteralSpherical { rotated, units, codes }
}

/// The radius of one row `rotated` with codes `codes`.
pub fn literal_radius(rotated: &[f64], codes: &[usize], format: SphericalFormat) -> f64 {
    let z: Vec<f64> = codes.iter().map(|&code| f64::from(format.bits.levels()[code])).collect();
    let squared: f64 = rotated.iter().map(|y| y * y).sum();
    let along: f64 = rotated.iter().zip(&z).map(|(y, z)| y * z).sum();
    if squared == 0.0 {
        return 0.0;
    }
    match format.fit {
        RadiusFit::Unbiased => squared / along,
        RadiusFit::LeastSquares => along / z.iter().map(|z| z * z).sum::<f64>(),
    }
}

/// The code of each channel, read bit by bit.
///
/// # Panics
/// When the parts do not fit each other.
pub fn unpacked_spherical(codes: &HostSpherical) -> Vec<usize> {
    let problem = codes.check().expect("codes should fit their shape");
    let bits = codes.format.bits.bits();
    let row_bits = |row: &[u8], at: usize| usize::from(row[at / 8] >> (at % 8) & 1);
    let code = |row: &[u8], channel: usize| {
        (0..bits).map(|bit| row_bits(row, channel * bits + bit) << bit).sum::<usize>()
    };
    let rows = codes.codes.chunks_exact(problem.row_bytes());
    rows.flat_map(|row| (0..problem.head_dim).map(move |channel| code(row, channel))).collect()
}

/// What each row stands for, `[rows, head_dim]`; `head` names the head of the frame that a row is of. A radius that is NaN makes a row of NaN.
///
/// # Panics
/// When the parts do not fit each other.
pub fn literal_restored(
    codes: &HostSpherical,
    frame: &SphericalFrame,
    head: impl Fn(usize) -> usize,
) -> Vec<f64> {
    let dim = frame.head_dim();
    let matrix = rotation_matrix(frame);
    let levels = codes.format.bits.levels();
    let mut out = Vec::new();
    for (row, unpacked) in unpacked_spherical(codes).chunks_exact(dim).enumerate() {
        let radius = codes.radii[row].to_f64();
        let mean = &frame.means()[head(row) * dim..][..dim];
        for (j, mean) in mean.iter().enumerate() {
            let channel =
                |(i, &code): (usize, &usize)| matrix[i * dim + j] * f64::from(levels[code]) * radius;
            out.push(mean.to_f64() + unpacked.iter().enumerate().map(channel).sum::<f64>());
        }
    }
    out
}
