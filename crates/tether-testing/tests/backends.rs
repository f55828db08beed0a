//! The backends to test with: one that fails and counts, one that does nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use tether_codec::{
    Bits, CodecEngine, Format, Grouping, SphericalBits, SphericalEngine, SphericalFormat, SphericalFrame,
};
use tether_core::{
    AlignJob, AttendOptions, AttendTable, BlockTables, CoreError, DType, Engine, HostTensor, LogitQuery,
    NewQueries, PageLists, PagedKv, Pairing, Pool, Readback, Rotation, Side, SlotId, StoreSpec, Summaries,
    TokenEngine, TokenLayout, WindowSpec,
};
use tether_host::Host;
use tether_testing::backends::{BytesMoved, Call, Faulty, Null};
use tether_testing::engine_cases::{self, EngineShape};
use tether_testing::{codec_cases, token_cases};

const SPEC: StoreSpec =
    StoreSpec { slots: 3, tokens_per_unit: 2, kv_heads: 2, head_dim_k: 4, head_dim_v: 6, dtype: DType::F16 };

fn zeros(shape: &[usize], dtype: DType) -> HostTensor {
    HostTensor::zeros(shape, dtype).unwrap()
}

/// What a tensor is.
type Described = (Vec<usize>, DType);

/// One of each operation; what came of each, in order.
fn all_operations<E: TokenEngine>(engine: &E) -> Result<Vec<Described>, CoreError> {
    let mut seen = Vec::new();
    let mut see = |tensor: &E::Tensor| {
        let (shape, dtype) = engine.describe(tensor);
        seen.push((shape.to_vec(), dtype));
    };
    let up = |shape: &[usize], dtype| engine.upload(&zeros(shape, dtype));

    // Units.
    let mut store = engine.create_store(&SPEC)?;
    engine.grow_store(&mut store, 5)?;
    let (k, v) = (up(&[4, 2, 4], DType::F16)?, up(&[4, 2, 6], DType::F16)?);
    engine.check_finite("k", &k)?;
    engine.write(&mut store, &[SlotId(4), SlotId(1)], &k, &v, Summaries::Moments)?;
    let q = up(&[2, 4, 4], DType::F16)?;
    see(&engine.mean_logits_of(&[
        LogitQuery { store: &store, q: &q, candidates: &[vec![SlotId(1), SlotId(4)]] },
        LogitQuery { store: &store, q: &q, candidates: &[vec![SlotId(4)]] },
    ])?);
    engine.align(&mut store, 0.5, &[AlignJob { slots: vec![SlotId(1)], trusted: vec![SlotId(4)] }])?;
    // A unit of two tokens at three positions, and four of eight channels.
    let rotation = engine.upload_rotation(&Rotation {
        pairing: Pairing::Half,
        rotary_dim: 4,
        first_pair: 0,
        frequencies: &[0.5, 0.25],
        axes: &[0, 1],
        deltas: &[&[0, 0, 1, 1, 2, 2], &[0, 1, 0, 1, 0, 1]],
        tokens_per_delta: 1,
        scale: 1.0,
    })?;
    let mut out = up(&[2, 4, 6], DType::F32)?;
    let table = AttendTable { slots: &[SlotId(4), SlotId(1)], positions: &[0, 1], query_position: 2 };
    engine.attend(&mut store, Some(&rotation), &q, &[table], &mut out)?;
    engine.forget_rotated(&mut store);
    assert_eq!(engine.rotated_bytes(&store), 0);
    see(&out);
    see(&engine.gather(&store, Side::Keys, &[SlotId(4), SlotId(1)], Some((&rotation, &[2, 0])))?);
    see(&engine.gather(&store, Side::Values, &[SlotId(1)], None)?);
    see(&engine.moments(&store, Side::Values, &[SlotId(1)])?);

    // Tokens and heads.
    let rotation = Rotation {
        pairing: Pairing::Interleaved,
        rotary_dim: 4,
        first_pair: 0,
        frequencies: &[1.0, 0.1],
        axes: &[],
        deltas: &[&[1, 2, 3, 4, 5]],
        tokens_per_delta: 1,
        scale: 1.0,
    };
    let rotation = engine.upload_rotation(&rotation)?;
    let mut keys = up(&[2, 5, 4], DType::F16)?;
    engine.rotate(&mut keys, TokenLayout::Hnd, &rotation)?;
    see(&engine.rotated(&keys, TokenLayout::Hnd, &rotation)?);
    let queries = up(&[4, 2, 4], DType::F16)?;
    let scores = engine.window_scores(&queries, &keys, &WindowSpec { scale: 0.5, pool: Pool::Mean(3) })?;
    see(&scores);
    let best = engine.top_k(&scores, 2)?;
    assert_eq!(engine.read_indices(&best)?, [0, 1, 0, 1], "of equal ones the first");
    see(&engine.gather_rows(&keys, TokenLayout::Hnd, &best)?);
    let (a, b) = engine.gather_rows_of_two((&keys, &keys), TokenLayout::Hnd, &best)?;
    see(&a);
    see(&b);

    // Rows and pages.
    let (mut k_pool, mut v_pool) = (up(&[3, 2, 1, 4], DType::F16)?, up(&[3, 2, 1, 6], DType::F16)?);
    let pages = engine.upload_indices(&[2], &[2, 0])?;
    see(&engine.gather_pages(&k_pool, &pages)?);
    let (a, b) = engine.gather_pages_of_two((&k_pool, &v_pool), &pages)?;
    see(&a);
    see(&b);
    let rows = engine.upload_indices(&[2, 1], &[5, 3])?;
    let (new_k, new_v) = (up(&[2, 1, 4], DType::F16)?, up(&[2, 1, 6], DType::F16)?);
    engine.write_rows(&mut k_pool, &rows, &new_k)?;
    engine.write_rows_together(&mut [(&mut k_pool, &new_k), (&mut v_pool, &new_v)], &rows)?;
    see(&engine.read_rows(&v_pool, &rows)?);

    // Attention over pages: two groups of one head, one sequence.
    let lists =
        BlockTables { page_size: 2, groups: 2, indptr: &[0, 1, 3], pages: &[0, 2, 1], lengths: &[2, 3] };
    let lists = engine.upload_tables(&lists)?;
    let one = up(&[1, 4, 4], DType::F16)?;
    let (out, lse) = engine.decode(&one, &k_pool, &v_pool, &lists, 0.5)?;
    see(&out);
    see(&lse);
    let mut table = engine.create_page_table(1)?;
    engine.grow_page_table(&mut table, 4)?;
    engine.write_page_table(&mut table, &[0, 2, 3], &[0, 2, 1])?;
    let lists = PageLists { page_size: 2, groups: 2, starts: &[0, 2], lengths: &[2, 3] };
    let lists = engine.page_lists(&table, &lists)?;
    let attention = engine.upload_attention(&AttendOptions::scaled(0.5))?;
    let two = up(&[2, 4, 4], DType::F16)?;
    let kv = PagedKv { k: &k_pool, v: &v_pool, positions: None };
    let (out, lse) = engine.attend_paged(
        &NewQueries { q: &two, starts: &[0, 2], positions: None },
        &kv,
        &lists,
        &attention,
    )?;
    see(&out);
    see(&lse);

    let read = engine.read(&[&out, &lse])?.wait()?;
    seen.extend(read.iter().map(|tensor| (tensor.shape().to_vec(), tensor.dtype())));
    Ok(seen)
}

/// One of each operation on codes; what came of each, in order.
fn all_code_operations<E: CodecEngine + SphericalEngine>(engine: &E) -> Result<Vec<Described>, CoreError> {
    let numbers: Vec<f32> = (0..64).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let x = HostTensor::from_f32(&[2, 2, 1, 16], numbers)?;
    let tables = BlockTables { page_size: 2, groups: 1, indptr: &[0, 2], pages: &[1, 0], lengths: &[3] };
    let tables = engine.upload_tables(&tables)?;
    let (x, q) = (engine.upload(&x)?, engine.upload(&zeros(&[1, 2, 16], DType::F32))?);
    let codes = engine.quantise(&x, Format { bits: Bits::Eight, grouping: Grouping::Token })?;
    let codes = engine.upload_codes(&engine.read_codes(&codes)?)?;
    let back = engine.dequantise(&codes, DType::F16)?;
    let (out, lse) = engine.decode_codes(&q, &codes, &codes, &tables, 0.25)?;

    let frame = engine.upload_frame(&SphericalFrame::uncentred(1, 16, 7)?)?;
    let format = SphericalFormat::of(Side::Values, SphericalBits::Four);
    let mut pool = engine.quantise_spherical(&x, &frame, format)?;
    let mut other = engine.upload_spherical(&engine.read_spherical(&pool)?)?;
    let rows = engine.upload_indices(&[1, 1], &[3])?;
    let row = engine.upload(&zeros(&[1, 1, 16], DType::F32))?;
    engine.write_spherical(&mut pool, &rows, &row, &frame)?;
    engine.write_spherical_pair([&mut pool, &mut other], &rows, [&row, &row], [&frame, &frame])?;
    let restored = engine.dequantise_spherical(&pool, &frame, DType::BF16)?;
    let (coded, coded_lse) = engine.decode_spherical(&q, (&pool, &frame), (&other, &frame), &tables, 0.25)?;
    let all = [back, out, lse, restored, coded, coded_lse];
    Ok(all.iter().map(|tensor| (engine.describe(tensor).0.to_vec(), engine.describe(tensor).1)).collect())
}

/// A faulty host that fails after `calls` calls.
fn failing_after(calls: u64) -> Faulty<Host> {
    let engine = Faulty::new(Host::new());
    engine.watch().let_waits_fail(true);
    engine.watch().fail_after(calls);
    engine
}

#[test]
fn everything_is_passed_on() {
    let shape = EngineShape::ALL[3];
    let engine = Faulty::new(Host::new());
    for dtype in [DType::F32, DType::BF16] {
        engine_cases::writes_units_and_their_moments(&engine, &shape, dtype).unwrap();
        engine_cases::scores_units_by_their_means(&engine, &shape, dtype).unwrap();
        engine_cases::aligns_units_in_place(&engine, &shape, dtype).unwrap();
        engine_cases::rotates_keys_on_the_way_out(&engine, &shape, dtype).unwrap();
        engine_cases::attends_over_tables(&engine, &shape, dtype).unwrap();
        engine_cases::grows_without_losing_anything(&engine, &shape, dtype).unwrap();
        token_cases::rotates_by_positions(&engine, dtype).unwrap();
        token_cases::gathers_rows(&engine, dtype).unwrap();
        token_cases::gathers_pages(&engine, dtype).unwrap();
        token_cases::scores_by_a_window(&engine, dtype).unwrap();
        token_cases::compacts_what_it_selects(&engine, dtype).unwrap();
        token_cases::attends_over_pages(&engine, dtype).unwrap();
        token_cases::reads_and_writes_rows(&engine, dtype).unwrap();
        token_cases::extends_what_is_cached(&engine, dtype).unwrap();
        codec_cases::quantises(&engine, dtype).unwrap();
        codec_cases::attends_over_codes(&engine, dtype).unwrap();
        codec_cases::writes_spherical_rows(&engine, dtype).unwrap();
        codec_cases::attends_over_spherical_codes(&engine, dtype).unwrap();
    }
    assert_eq!((engine.name(), engine.stores_codes()), ("host", false));
    assert_eq!(engine.traffic(), engine.inner().traffic());
    assert_eq!(engine.watch().failed(), None);
}

/// Puts a fault into each call of `operations`; all of them go through a second time.
fn put_faults_into(operations: impl Fn(&Faulty<Host>) -> Result<Vec<Described>, CoreError>) {
    let calm = Faulty::new(Host::new());
    calm.watch().let_waits_fail(true);
    let undisturbed = operations(&calm).unwrap();
    let calls = calm.watch().fallible_calls();
    let mut failed = Vec::new();
    for n in 0..calls {
        let engine = failing_after(n);
        let e = operations(&engine).unwrap_err();
        assert!(matches!(e, CoreError::Device { engine: "host", .. }), "{n}: {e}");
        let call = engine.watch().failed().unwrap();
        assert!(e.to_string().contains(&format!("{call:?}")), "{e}");
        assert_eq!(engine.watch().fallible_calls(), n + 1);
        failed.push(call);
        // Nothing fails any more.
        assert_eq!(operations(&engine).unwrap(), undisturbed);
        assert_eq!(engine.watch().failed(), Some(call));
    }
    // One fault for each call that was made, of its kind.
    for (call, moved) in calm.watch().moved_by_call() {
        let faults = failed.iter().filter(|&&f| f == call).count() as u64;
        assert_eq!(faults, moved.calls, "{call:?}");
    }
    assert_eq!(failed.len() as u64, calm.watch().moved().calls);

    let engine = failing_after(calls);
    assert!(operations(&engine).is_ok(), "there are no more calls");
    assert_eq!(engine.watch().failed(), None);
    engine.watch().fail_after(0);
    engine.watch().disarm();
    assert!(operations(&engine).is_ok());
}

#[test]
fn every_call_fails_when_it_is_named_and_only_once() {
    put_faults_into(all_operations);
    put_faults_into(all_code_operations);
}

#[test]
fn a_call_that_fails_has_done_nothing() {
    let engine = Faulty::new(Host::new());
    let watch = engine.watch().clone();
    let ones = |shape: &[usize]| HostTensor::from_f32(shape, vec![1.0; shape.iter().product()]).unwrap();
    let mut pool = engine.upload(&zeros(&[4, 2], DType::F32)).unwrap();
    let rows = engine.upload_indices(&[1], &[3]).unwrap();
    watch.fail_after(0);
    engine.write_rows(&mut pool, &rows, &ones(&[1, 2])).unwrap_err();
    assert_eq!((watch.failed(), &pool), (Some(Call::WriteRows), &zeros(&[4, 2], DType::F32)));
    engine.write_rows(&mut pool, &rows, &ones(&[1, 2])).unwrap();
    assert_eq!(pool.as_f32().unwrap()[6..], [1.0, 1.0]);

    let mut store = engine.create_store(&StoreSpec { dtype: DType::F32, ..SPEC }).unwrap();
    let write = |store: &mut _| {
        engine.write(store, &[SlotId(0)], &ones(&[2, 2, 4]), &ones(&[2, 2, 6]), Summaries::Moments)
    };
    let mean =
        |store: &_| engine.inner().moments(store, Side::Keys, &[SlotId(0)]).unwrap().as_f32().unwrap()[0];
    watch.fail_after(0);
    write(&mut store).unwrap_err();
    assert_eq!(mean(&store), 0.0);
    write(&mut store).unwrap();
    assert_eq!(mean(&store), 1.0);
}

#[test]
fn waits_fail_when_they_may() {
    let engine = Faulty::new(Host::new());
    let watch = engine.watch().clone();
    let x = engine.upload(&zeros(&[2], DType::F32)).unwrap();
    let read = engine.read(&[&x]).unwrap();
    watch.fail_after(0);
    read.wait().unwrap();
    assert_eq!((watch.failed(), watch.fallible_calls()), (None, 2), "a wait is no call that fails");
    watch.disarm();
    watch.let_waits_fail(true);
    let read = engine.read(&[&x]).unwrap();
    watch.fail_after(0);
    assert!(matches!(read.wait(), Err(CoreError::Device { .. })));
    assert_eq!((watch.failed(), watch.waits()), (Some(Call::Wait), 2));
}

#[test]
fn bytes_are_counted_by_what_they_are_for() {
    let engine = Faulty::new(Host::new());
    let watch = engine.watch().clone();
    let moved = |call| {
        let BytesMoved { calls, to_device, to_host } = watch.moved_by(call);
        (calls, to_device, to_host)
    };
    all_operations(&engine).unwrap();
    // 4 slots of two candidates' lists are 12 bytes; two page numbers and two row numbers are 16.
    assert_eq!(moved(Call::MeanLogits), (1, 12, 0));
    assert_eq!(moved(Call::UploadIndices), (2, 16, 0));
    assert_eq!(moved(Call::ReadIndices), (1, 0, 16));
    assert_eq!(moved(Call::Align), (1, 8, 0));
    assert_eq!(moved(Call::Attend), (1, 16, 0));
    assert_eq!(moved(Call::Gather), (2, 8 + 8 + 4, 0));
    // Frequencies, axes and deltas; three pages with where they go; where lists begin and how long they are.
    assert_eq!(moved(Call::UploadRotation), (2, 16 + 2 + 48 + 16 + 20, 0));
    assert_eq!(moved(Call::UploadTables), (1, 4 * (3 + 3 + 2), 0));
    assert_eq!(moved(Call::WritePageTable), (1, 24, 0));
    assert_eq!(moved(Call::PageLists), (1, 16, 0));
    assert_eq!(moved(Call::AttendPaged), (1, 8, 0));
    // Two tokens of four heads: outputs of 6 channels in half precision, and log-sum-exps.
    assert_eq!(moved(Call::Read), (1, 0, 8 * 6 * 2 + 8 * 4));
    assert_eq!(moved(Call::Wait), (1, 0, 0));
    assert_eq!(watch.waits(), 2);
    for call in [Call::Decode, Call::WindowScores, Call::TopK, Call::WriteRows, Call::Moments, Call::Rotate] {
        let (calls, _, to_host) = moved(call);
        assert!(calls > 0 && to_host == 0, "{call:?}");
    }
    assert_eq!(watch.moved().to_host, 16 + 128);
    all_code_operations(&engine).unwrap();
    // 64 codes of 8 bits with 4 scales; 64 codes of 4 bits with 4 radii; 16 means with their signs.
    assert_eq!(moved(Call::ReadCodes), (1, 0, 64 + 16));
    assert_eq!(moved(Call::UploadCodes), (1, 64 + 16, 0));
    assert_eq!(moved(Call::ReadSpherical), (1, 0, 32 + 8));
    assert_eq!(moved(Call::UploadSpherical), (1, 32 + 8, 0));
    assert_eq!(moved(Call::UploadFrame), (1, 32 + 16, 0));
    assert_eq!(watch.waits(), 4);
    watch.reset_counts();
    all_operations(&engine).unwrap();
    let uploads = watch.moved_by(Call::Upload);
    watch.reset_counts();
    assert_eq!((watch.moved(), watch.fallible_calls()), (BytesMoved::default(), 0));
    all_operations(&engine).unwrap();
    assert_eq!(watch.moved_by(Call::Upload), uploads);
    // What did not go through has moved nothing.
    watch.reset_counts();
    watch.fail_after(0);
    engine.upload(&zeros(&[8], DType::F32)).unwrap_err();
    assert_eq!(moved(Call::Upload), (1, 0, 0));
}

#[test]
fn nothing_has_the_shapes_that_something_has() {
    assert_eq!(all_operations(&Null).unwrap(), all_operations(&Host::new()).unwrap());
    let x = Null.upload(&HostTensor::from_f32(&[2], vec![3.0, 4.0]).unwrap()).unwrap();
    assert_eq!(Null.read(&[&x]).unwrap().wait().unwrap(), [zeros(&[2], DType::F32)]);
    assert_eq!(size_of_val(&Null), 0);
}

#[test]
fn nothing_refuses_what_does_not_fit() {
    let up = |shape: &[usize]| Null.upload(&zeros(shape, DType::F32)).unwrap();
    let mut pool = up(&[4, 2]);
    let rows = Null.upload_indices(&[1], &[3]).unwrap();
    let wrong = Null.write_rows(&mut pool, &rows, &up(&[1, 3]));
    assert!(matches!(wrong, Err(CoreError::ShapeMismatch { what: "x", .. })), "{wrong:?}");
    let mut store = Null.create_store(&StoreSpec { dtype: DType::F32, ..SPEC }).unwrap();
    let (k, v) = (up(&[2, 2, 4]), up(&[2, 2, 6]));
    let beyond = Null.write(&mut store, &[SlotId(3)], &k, &v, Summaries::Skip);
    assert!(matches!(beyond, Err(CoreError::NoSuchSlot { .. })), "{beyond:?}");
    Null.grow_store(&mut store, 4).unwrap();
    Null.write(&mut store, &[SlotId(3)], &k, &v, Summaries::Skip).unwrap();
    let (host, bytes) = (Host::new(), Null.store_bytes(&store));
    assert_eq!(bytes, host.store_bytes(&host.create_store(&store).unwrap()));
    let scores = up(&[1, 3]);
    assert!(matches!(Null.top_k(&scores, 4), Err(CoreError::Count { .. })));
}
