//! Engines whose stores hold codes do with them what the host does with the numbers that they stand for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_codec::comparison::PublishedTier;
use tether_codec::{MeanOf, RowCodec, UnitCodec};
use tether_core::{
    AlignJob, AttendTable, CoreError, DType, Engine, HostTensor, Side, SlotId, StoreSpec, Summaries,
};
use tether_host::{CodedHost, Host};

const TOKENS: usize = 6;
const HEADS: usize = 2;
const DIM: usize = 16;
const SLOTS: usize = 5;

fn spec() -> StoreSpec {
    StoreSpec {
        slots: SLOTS,
        tokens_per_unit: TOKENS,
        kv_heads: HEADS,
        head_dim_k: DIM,
        head_dim_v: DIM,
        dtype: DType::F32,
    }
}

fn tensor(units: usize, seed: usize) -> HostTensor {
    let number = |i: usize| ((i * 37 + seed * 101) % 211) as f32 / 50.0 - 2.0 + (i % 3) as f32;
    let data = (0..units * TOKENS * HEADS * DIM).map(number).collect();
    HostTensor::from_f32(&[units * TOKENS, HEADS, DIM], data).unwrap()
}

fn codecs() -> Vec<(RowCodec, usize)> {
    let row = |bits: usize| DIM * bits / 8;
    vec![
        (RowCodec::Half {}, TOKENS * DIM * 2),
        (RowCodec::Int { bits: 8, group: 16 }, TOKENS * (row(8) + 4)),
        (RowCodec::Kivi { bits: 4 }, TOKENS * row(4) + 4 * DIM),
        (RowCodec::Spherical { bits: 4, mean: MeanOf::Page }, TOKENS * (row(4) + 2) + 2 * DIM),
    ]
}

#[test]
fn operations_are_those_on_the_numbers_that_codes_stand_for() {
    let slots: Vec<SlotId> = [3, 0, 4, 1].map(SlotId).to_vec();
    for (keys, _) in codecs() {
        let engine =
            CodedHost::new(Host::new(), UnitCodec { keys, values: RowCodec::Int { bits: 4, group: 8 } });
        assert!(engine.stores_codes());
        let mut coded = engine.create_store(&spec()).unwrap();
        engine.write(&mut coded, &slots, &tensor(4, 1), &tensor(4, 2), Summaries::Moments).unwrap();
        // A host with those numbers.
        let (host, mut dense) = (Host::new(), Host::new().create_store(&spec()).unwrap());
        let read = |store: &_, side| engine.gather(store, side, &slots, None).unwrap();
        let (k, v) = (read(&coded, Side::Keys), read(&coded, Side::Values));
        host.write(&mut dense, &slots, &k, &v, Summaries::Moments).unwrap();
        let apart = k
            .to_f32_vec()
            .iter()
            .zip(tensor(4, 1).to_f32_vec())
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(apart < 0.6 && apart > 0.0, "{keys:?}: {apart}");

        let q = tensor(1, 9);
        let table = AttendTable { slots: &slots, positions: &[0, 1, 2, 3], query_position: 3 };
        let mut out = [(); 2].map(|()| HostTensor::zeros(&[TOKENS, HEADS, DIM], DType::F32).unwrap());
        engine.attend(&mut coded, None, &q, std::slice::from_ref(&table), &mut out[0]).unwrap();
        host.attend(&mut dense, None, &q, std::slice::from_ref(&table), &mut out[1]).unwrap();
        assert_eq!(out[0], out[1], "{keys:?}");
        let candidates = vec![vec![SlotId(4), SlotId(3)]];
        assert_eq!(
            engine.mean_logits(&coded, &q, &candidates).unwrap(),
            host.mean_logits(&dense, &q, &candidates).unwrap()
        );
        for side in [Side::Keys, Side::Values] {
            assert_eq!(
                engine.moments(&coded, side, &slots).unwrap(),
                host.moments(&dense, side, &slots).unwrap()
            );
        }
        // An edit is coded again, and leaves what it does not edit alone, bit by bit.
        let jobs = [
            AlignJob { slots: vec![SlotId(1)], trusted: vec![SlotId(3), SlotId(0)] },
            AlignJob { slots: vec![SlotId(4)], trusted: Vec::new() },
        ];
        engine.align(&mut coded, 0.5, &jobs).unwrap();
        host.align(&mut dense, 0.5, &jobs).unwrap();
        let unit = TOKENS * HEADS * DIM;
        let (edited, before) = (read(&coded, Side::Keys).to_f32_vec(), k.to_f32_vec());
        assert_eq!(edited[..3 * unit], before[..3 * unit]);
        assert_ne!(edited[3 * unit..], before[3 * unit..]);
        let exact = host.gather(&dense, Side::Keys, &[SlotId(1)], None).unwrap().to_f32_vec();
        let apart = edited[3 * unit..].iter().zip(exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 0.6, "{keys:?}: {apart}");
    }
}

#[test]
fn slots_that_nobody_wrote_take_no_memory_and_are_zero() {
    for (codec, bytes) in codecs() {
        let engine = CodedHost::new(Host::new(), UnitCodec { keys: codec, values: codec });
        let mut store = engine.create_store(&spec()).unwrap();
        assert_eq!(engine.store_bytes(&store), 0);
        engine.write(&mut store, &[SlotId(2)], &tensor(1, 1), &tensor(1, 2), Summaries::Skip).unwrap();
        // Keys and values; KIVI's values share scales by 32 channels of a token.
        let values = if let RowCodec::Kivi { .. } = codec { TOKENS * (DIM / 2 + 4) } else { bytes };
        assert_eq!(engine.store_bytes(&store), (HEADS * (bytes + values)) as u64, "{codec:?}");
        let zero = engine.gather(&store, Side::Keys, &[SlotId(0)], None).unwrap();
        assert!(zero.to_f32_vec().iter().all(|&x| x == 0.0));
        engine.grow_store(&mut store, 9).unwrap();
        assert!(engine.gather(&store, Side::Keys, &[SlotId(8)], None).is_ok());
        assert!(engine.gather(&store, Side::Keys, &[SlotId(9)], None).is_err());
    }
}

#[test]
fn refused_writes_change_nothing() {
    let codec = RowCodec::Half {};
    let engine = CodedHost::new(Host::new(), UnitCodec { keys: codec, values: codec });
    let mut store = engine.create_store(&spec()).unwrap();
    let slots = [SlotId(0), SlotId(1)];
    engine.write(&mut store, &slots, &tensor(2, 1), &tensor(2, 2), Summaries::Skip).unwrap();
    let before = engine.gather(&store, Side::Keys, &slots, None).unwrap();
    for bad in [f32::NAN, 1e6] {
        let mut k = tensor(2, 5);
        // In the second unit, so that the first was coded.
        k.as_f32_mut().unwrap()[TOKENS * HEADS * DIM + 3] = bad;
        let e = engine.write(&mut store, &slots, &k, &tensor(2, 6), Summaries::Skip);
        assert!(matches!(e, Err(CoreError::NonFinite { .. })), "{e:?}");
        assert_eq!(engine.gather(&store, Side::Keys, &slots, None).unwrap(), before);
    }
    assert!(engine.write(&mut store, &[SlotId(5)], &tensor(1, 1), &tensor(1, 1), Summaries::Skip).is_err());
    assert!(engine.write(&mut store, &slots, &tensor(1, 1), &tensor(2, 1), Summaries::Skip).is_err());
}

#[test]
fn codecs_that_learn_from_a_sequence_are_refused() {
    let tier = PublishedTier::High;
    for keys in [
        RowCodec::Spherical { bits: 4, mean: MeanOf::Head },
        RowCodec::SphericalPublished { tier },
        RowCodec::Spherical { bits: 5, mean: MeanOf::Page },
    ] {
        let engine = CodedHost::new(Host::new(), UnitCodec { keys, values: RowCodec::Half {} });
        assert!(engine.create_store(&spec()).is_err(), "{keys:?}");
    }
}
