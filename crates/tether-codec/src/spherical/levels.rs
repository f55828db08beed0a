//! Lloyd-Max quantisers of the standard normal distribution.

/// Bits of a coordinate's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SphericalBits {
    /// The sign.
    One,
    /// 4 levels.
    Two,
    /// 8 levels; codes straddle bytes.
    Three,
    /// 16 levels.
    Four,
    /// 64 levels; codes straddle bytes.
    Six,
}

/// Levels below and above 0, ascending.
const fn mirrored<const P: usize, const N: usize>(positive: [f32; P]) -> [f32; N] {
    let mut levels = [0f32; N];
    let mut i = 0;
    while i < P {
        levels[P + i] = positive[i];
        levels[P - 1 - i] = -positive[i];
        i += 1;
    }
    levels
}

/// Where one code ends and the next begins.
const fn midpoints<const N: usize, const M: usize>(levels: &[f32; N]) -> [f32; M] {
    let mut between = [0f32; M];
    let mut i = 0;
    while i < M {
        between[i] = (levels[i] + levels[i + 1]) / 2.0;
        i += 1;
    }
    between
}

// Fixed points of Lloyd's iteration in f64: each level is the mean of the normal distribution between its midpoints.
static LEVELS_1: [f32; 2] = mirrored([0.797_884_6]);
static LEVELS_2: [f32; 4] = mirrored([0.452_78, 1.510_417_6]);
static LEVELS_3: [f32; 8] = mirrored([0.245_094_2, 0.756_005_3, 1.343_909_3, 2.151_945_7]);
static LEVELS_4: [f32; 16] = mirrored([
    0.128_395,
    0.388_048_3,
    0.656_759_1,
    0.942_340_5,
    1.256_231_2,
    1.618_046_4,
    2.069_017_2,
    2.732_589_6,
]);
static LEVELS_6: [f32; 64] = mirrored([
    0.033_409_5,
    0.100_278_3,
    0.167_296_9,
    0.234_567,
    0.302_192_8,
    0.370_282_6,
    0.438_949_7,
    0.508_313_8,
    0.578_503,
    0.649_655_6,
    0.721_921_9,
    0.795_467_7,
    0.870_476_6,
    0.947_154_9,
    1.025_736_3,
    1.106_488_2,
    1.189_720_1,
    1.275_794_5,
    1.365_141,
    1.458_276_4,
    1.555_831_2,
    1.658_588_9,
    1.767_541_9,
    1.883_977_2,
    2.009_611,
    2.146_810_2,
    2.298_981_2,
    2.471_305,
    2.672_273_8,
    2.917_406_8,
    3.240_437,
    3.744_101_3,
]);
static MIDPOINTS_1: [f32; 1] = midpoints(&LEVELS_1);
static MIDPOINTS_2: [f32; 3] = midpoints(&LEVELS_2);
static MIDPOINTS_3: [f32; 7] = midpoints(&LEVELS_3);
static MIDPOINTS_4: [f32; 15] = midpoints(&LEVELS_4);
static MIDPOINTS_6: [f32; 63] = midpoints(&LEVELS_6);

impl SphericalBits {
    /// All of them, ascending.
    pub const ALL: [Self; 5] = [Self::One, Self::Two, Self::Three, Self::Four, Self::Six];

    /// The number.
    pub const fn bits(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
            Self::Four => 4,
            Self::Six => 6,
        }
    }

    /// The one of so many bits.
    pub fn from_bits(bits: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|b| b.bits() == bits)
    }

    /// What codes stand for, ascending.
    pub fn levels(self) -> &'static [f32] {
        match self {
            Self::One => &LEVELS_1,
            Self::Two => &LEVELS_2,
            Self::Three => &LEVELS_3,
            Self::Four => &LEVELS_4,
            Self::Six => &LEVELS_6,
        }
    }

    /// Midpoints between neighbouring levels. A coordinate's code is the number of those that are less than it.
    pub fn midpoints(self) -> &'static [f32] {
        match self {
            Self::One => &MIDPOINTS_1,
            Self::Two => &MIDPOINTS_2,
            Self::Three => &MIDPOINTS_3,
            Self::Four => &MIDPOINTS_4,
            Self::Six => &MIDPOINTS_6,
        }
    }

    /// Expected squared error of a normal number, of variance 1.
    pub const fn distortion(self) -> f64 {
        match self {
            Self::One => 0.363_380,
            Self::Two => 0.117_482,
            Self::Three => 0.034_548,
            Self::Four => 0.009_501,
            Self::Six => 0.000_644,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SphericalBits;

    #[test]
    fn every_level_is_the_mean_of_its_interval() {
        // The mean of the normal distribution between a and b by a midpoint rule, which needs no error function.
        let density = |x: f64| (-x * x / 2.0).exp();
        for bits in SphericalBits::ALL {
            let (levels, midpoints) = (bits.levels(), bits.midpoints());
            assert_eq!((levels.len(), midpoints.len()), (1 << bits.bits(), (1 << bits.bits()) - 1));
            let mut distortion = 0.0;
            for (i, &level) in levels.iter().enumerate() {
                let low = if i == 0 { -12.0 } else { f64::from(midpoints[i - 1]) };
                let high = midpoints.get(i).map_or(12.0, |&m| f64::from(m));
                let step = (high - low) / 20_000.0;
                let (mut mass, mut first, mut error) = (0.0, 0.0, 0.0);
                for x in (0..20_000).map(|i| low + (f64::from(i) + 0.5) * step) {
                    mass += density(x) * step;
                    first += x * density(x) * step;
                    error += (x - f64::from(level)).powi(2) * density(x) * step;
                }
                assert!((first / mass - f64::from(level)).abs() < 3e-6, "{bits:?}: level {i}");
                distortion += error / std::f64::consts::TAU.sqrt();
            }
            assert!((distortion - bits.distortion()).abs() < 1e-6, "{bits:?}: {distortion}");
        }
    }
}
