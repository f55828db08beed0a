//! Dense host tensors: how data enters and leaves a cache on the CPU.

use half::{bf16, f16};
use smallvec::SmallVec;

use crate::{CoreError, DType};

/// A tensor's extents, outermost first.
pub type Shape = SmallVec<[usize; 4]>;

/// Elements of a [`HostTensor`], one variant per [`DType`].
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// IEEE half floats.
    F16(Vec<f16>),
    /// bfloat16.
    BF16(Vec<bf16>),
}

/// A type that tensors store: `f32`, [`half::f16`] or [`half::bf16`].
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// Its name as data.
    const DTYPE: DType;

    /// The elements, when they are of this type.
    fn of(data: &TensorData) -> Option<&[Self]>;

    /// The elements for writing, when they are of this type.
    fn of_mut(data: &mut TensorData) -> Option<&mut [Self]>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! element {
    ($type:ty, $variant:ident) => {
        impl sealed::Sealed for $type {}

        impl Element for $type {
            const DTYPE: DType = DType::$variant;

            fn of(data: &TensorData) -> Option<&[Self]> {
                if let TensorData::$variant(v) = data { Some(v) } else { None }
            }

            fn of_mut(data: &mut TensorData) -> Option<&mut [Self]> {
                if let TensorData::$variant(v) = data { Some(v) } else { None }
            }
        }
    };
}

element!(f32, F32);
element!(f16, F16);
element!(bf16, BF16);

/// Elements for writing in place: neither how many there are nor their type can change.
#[derive(Debug, PartialEq)]
pub enum ElementsMut<'a> {
    /// 32-bit floats.
    F32(&'a mut [f32]),
    /// IEEE half floats.
    F16(&'a mut [f16]),
    /// bfloat16.
    BF16(&'a mut [bf16]),
}

impl TensorData {
    /// The elements for writing in place.
    pub fn elements_mut(&mut self) -> ElementsMut<'_> {
        match self {
            Self::F32(v) => ElementsMut::F32(v),
            Self::F16(v) => ElementsMut::F16(v),
            Self::BF16(v) => ElementsMut::BF16(v),
        }
    }

    /// `len` zeros of type `dtype`.
    ///
    /// # Errors
    /// [`CoreError::OutOfMemory`] when there is no room for them.
    pub fn zeros(dtype: DType, len: usize) -> Result<Self, CoreError> {
        Ok(match dtype {
            DType::F32 => Self::F32(try_zeros(len)?),
            DType::F16 => Self::F16(try_zeros(len)?),
            DType::BF16 => Self::BF16(try_zeros(len)?),
        })
    }

    /// `values` rounded to `dtype`.
    pub fn narrowed(dtype: DType, values: &[f32]) -> Self {
        match dtype {
            DType::F32 => Self::F32(values.to_vec()),
            DType::F16 => Self::F16(values.iter().map(|&x| f16::from_f32(x)).collect()),
            DType::BF16 => Self::BF16(values.iter().map(|&x| bf16::from_f32(x)).collect()),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F16(v) => v.len(),
            Self::BF16(v) => v.len(),
        }
    }

    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::BF16(_) => DType::BF16,
        }
    }

    /// Elements from little-endian bytes, as files hold them; `None` when the bytes are not whole elements.
    pub fn from_le_bytes(dtype: DType, bytes: &[u8]) -> Option<Self> {
        fn words<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Option<Vec<T>> {
            let (words, rest) = bytes.as_chunks::<N>();
            rest.is_empty().then(|| words.iter().map(|&b| read(b)).collect())
        }
        Some(match dtype {
            DType::F32 => Self::F32(words(bytes, f32::from_le_bytes)?),
            DType::F16 => Self::F16(words(bytes, f16::from_le_bytes)?),
            DType::BF16 => Self::BF16(words(bytes, bf16::from_le_bytes)?),
        })
    }

    /// The elements as little-endian bytes.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        match self {
            Self::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::F16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::BF16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    /// The bytes, native endian.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::F32(v) => bytemuck::cast_slice(v),
            Self::F16(v) => bytemuck::cast_slice(v),
            Self::BF16(v) => bytemuck::cast_slice(v),
        }
    }

    /// Index of the first element that is NaN or infinite.
    pub fn first_non_finite(&self) -> Option<usize> {
        match self {
            // A whole block is tested without early exit, so that the compiler can use vector instructions.
            Self::F32(v) => {
                const EXPONENT: u32 = 0x7f80_0000;
                let bad = |x: &f32| x.to_bits() & EXPONENT == EXPONENT;
                let block = v.chunks(1024).position(|c| c.iter().fold(false, |any, x| any | bad(x)))?;
                v[block * 1024..].iter().position(bad).map(|i| block * 1024 + i)
            }
            Self::F16(v) => v.iter().position(|x| !x.is_finite()),
            Self::BF16(v) => v.iter().position(|x| !x.is_finite()),
        }
    }

    /// Copies as many elements as `into` holds, from `start` on, widened.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    pub fn widen_into(&self, start: usize, into: &mut [f32]) {
        let range = start..start + into.len();
        match self {
            Self::F32(v) => into.copy_from_slice(&v[range]),
            Self::F16(v) => into.iter_mut().zip(&v[range]).for_each(|(to, x)| *to = x.to_f32()),
            Self::BF16(v) => into.iter_mut().zip(&v[range]).for_each(|(to, x)| *to = x.to_f32()),
        }
    }

    /// The elements of `range` as `f32`: borrowed when that is what they are.
    pub fn widened(&self, range: std::ops::Range<usize>) -> std::borrow::Cow<'_, [f32]> {
        match self {
            Self::F32(v) => v[range].into(),
            Self::F16(v) => v[range].iter().map(|x| x.to_f32()).collect(),
            Self::BF16(v) => v[range].iter().map(|x| x.to_f32()).collect(),
        }
    }
}

/// A dense row-major tensor in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    shape: Shape,
    data: TensorData,
}

impl HostTensor {
    /// Wraps `data`, whose length must be the product of `shape`.
    ///
    /// # Errors
    /// [`CoreError::TensorLength`] when it is not, [`CoreError::SizeOverflow`] when the product does not fit `usize`.
    pub fn new(shape: &[usize], data: TensorData) -> Result<Self, CoreError> {
        let expected = element_count(shape)?;
        if data.len() != expected {
            return Err(CoreError::TensorLength { shape: shape.into(), expected, got: data.len() });
        }
        Ok(Self { shape: shape.into(), data })
    }

    /// Wraps `f32` data without copying it.
    ///
    /// # Errors
    /// As [`HostTensor::new`].
    pub fn from_f32(shape: &[usize], data: Vec<f32>) -> Result<Self, CoreError> {
        Self::new(shape, TensorData::F32(data))
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// [`CoreError::SizeOverflow`] when the product of `shape` does not fit, [`CoreError::OutOfMemory`] when there is no room.
    pub fn zeros(shape: &[usize], dtype: DType) -> Result<Self, CoreError> {
        let len = element_count(shape)?;
        Ok(Self { shape: shape.into(), data: TensorData::zeros(dtype, len)? })
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// True when some extent is zero.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The elements.
    pub fn data(&self) -> &TensorData {
        &self.data
    }

    /// The elements, without the shape; nothing is copied.
    pub fn into_data(self) -> TensorData {
        self.data
    }

    /// The elements for writing in place, whatever their type.
    pub fn elements_mut(&mut self) -> ElementsMut<'_> {
        self.data.elements_mut()
    }

    /// The elements, when they are of type `T`.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        T::of(&self.data)
    }

    /// The elements for writing, when they are of type `T`.
    pub fn as_slice_mut<T: Element>(&mut self) -> Option<&mut [T]> {
        T::of_mut(&mut self.data)
    }

    /// The elements, when the tensor is `f32`.
    pub fn as_f32(&self) -> Option<&[f32]> {
        self.as_slice()
    }

    /// The elements for writing, when the tensor is `f32`.
    pub fn as_f32_mut(&mut self) -> Option<&mut [f32]> {
        self.as_slice_mut()
    }

    /// All elements widened to `f32`.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        self.data.widened(0..self.len()).into_owned()
    }

    /// All elements as `f32`; nothing is copied where that is what they are.
    pub fn into_f32_vec(self) -> Vec<f32> {
        match self.data {
            TensorData::F32(v) => v,
            data => data.widened(0..data.len()).into_owned(),
        }
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`CoreError::TensorLength`] when the element counts differ.
    pub fn reshaped(self, shape: &[usize]) -> Result<Self, CoreError> {
        Self::new(shape, self.data)
    }

    /// Index of the first element that is NaN or infinite.
    pub fn first_non_finite(&self) -> Option<usize> {
        self.data.first_non_finite()
    }
}

/// Zeros whose pages the system hands out when they are first written.
fn try_zeros<T: bytemuck::Zeroable>(len: usize) -> Result<Vec<T>, CoreError> {
    bytemuck::allocation::try_zeroed_vec(len)
        .map_err(|()| CoreError::OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) })
}

/// Product of `shape`, checked: that many elements of any dtype can be addressed.
///
/// # Errors
/// [`CoreError::SizeOverflow`].
pub fn element_count(shape: &[usize]) -> Result<usize, CoreError> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= isize::MAX as usize / size_of::<f64>())
        .ok_or_else(|| CoreError::SizeOverflow { what: "tensor elements", factors: shape.into() })
}

#[cfg(test)]
mod tests {
    use super::{Element, ElementsMut, HostTensor, TensorData};
    use crate::{CoreError, DType};
    use half::{bf16, f16};

    #[test]
    fn lengths_must_fit_shapes() {
        let e = HostTensor::from_f32(&[2, 3], vec![0.0; 5]).unwrap_err();
        assert!(matches!(e, CoreError::TensorLength { expected: 6, got: 5, .. }), "{e}");
        for absurd in [&[usize::MAX, 2][..], &[1 << 62], &[1 << 40, 1 << 30]] {
            let e = HostTensor::zeros(absurd, DType::F16).unwrap_err();
            assert!(matches!(e, CoreError::SizeOverflow { .. }), "{e}");
        }
        let e = HostTensor::zeros(&[1 << 50], DType::F32).unwrap_err();
        assert!(matches!(e, CoreError::OutOfMemory { .. }), "{e}");
        assert!(HostTensor::zeros(&[2, 0], DType::F32).unwrap().is_empty());
    }

    #[test]
    fn bytes_survive_a_round_trip() {
        for data in [
            TensorData::F32(vec![1.5, -0.0, f32::INFINITY]),
            TensorData::F16(vec![f16::from_f32(0.1), f16::MAX]),
            TensorData::BF16(vec![bf16::from_f32(-3.0)]),
        ] {
            assert_eq!(TensorData::from_le_bytes(data.dtype(), &data.to_le_bytes()), Some(data));
        }
        assert_eq!(TensorData::from_le_bytes(DType::F32, &[0; 6]), None);
    }

    #[test]
    fn elements_are_written_in_place_as_what_they_are() {
        let mut x = HostTensor::zeros(&[2, 2], DType::F16).unwrap();
        assert_eq!(x.as_slice_mut::<f32>(), None);
        assert_eq!(x.as_slice::<bf16>(), None);
        x.as_slice_mut::<f16>().unwrap()[3] = f16::from_f32(1.5);
        if let ElementsMut::F16(elements) = x.elements_mut() {
            elements[0] = f16::from_f32(-2.0);
        }
        assert_eq!(x.as_slice::<f16>().map(<[f16]>::len), Some(4));
        assert_eq!(x.clone().into_f32_vec(), [-2.0, 0.0, 0.0, 1.5]);
        assert_eq!(x.into_data().dtype(), <f16 as Element>::DTYPE);
        // What is `f32` already is handed over as it lies.
        let x = HostTensor::from_f32(&[2], vec![3.0, 4.0]).unwrap();
        let at = x.as_f32().unwrap().as_ptr();
        let taken = x.into_f32_vec();
        assert_eq!((taken.as_ptr(), taken), (at, vec![3.0, 4.0]));
    }

    #[test]
    fn the_first_number_that_is_not_finite_is_found() {
        for at in [0, 7, 1023, 1024, 2999] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut data = vec![1e38f32; 3000];
                data[at] = bad;
                data[2999] = bad;
                assert_eq!(HostTensor::from_f32(&[3000], data).unwrap().first_non_finite(), Some(at));
            }
        }
        assert_eq!(HostTensor::zeros(&[3000], DType::F32).unwrap().first_non_finite(), None);
        let half = TensorData::F16(vec![f16::ZERO, f16::NAN]);
        assert_eq!(HostTensor::new(&[2], half).unwrap().first_non_finite(), Some(1));
    }
}
