//! What the engine is asked for, so that every kernel is launched in the variants that matter: sizes of heads, pairings, layouts, bits,
//! group sizes. A kernel that no case launches fails `cargo xtask codegen`, and one that is not in `docs/support.md` fails `cargo xtask tidy`.
//!
//! A case is an operation as a user calls it. Which kernel that is, and in which variant, is the engine's choice for the target. Sizes
//! are as small as they may be without changing that choice.

use tether_codec::{
    Bits, CodecEngine, Format, Grouping, HostSpherical, SphericalBits, SphericalEngine, SphericalFormat,
    SphericalFrame,
};
use tether_core::{
    AlignJob, AttendOptions, AttendTable, BlockTables, ChosenTokens, CodeFrames, CodeSpec, CoreError, DType,
    Engine, MeanOf, MeanRotation, NEIGHBOURS, NewQueries, ObservedLayer, PageChoice, PageLists, PagedKv,
    Pairing, Pool, PublishedTier, Rotation, RowCodec, RowLists, ScoreLeaf, ScoreOp, Side, SimilarRows,
    SlotId, StandIns, StoreSpec, Summaries, TokenEngine, TokenGrid, TokenLayout, WindowSpec,
};
use tether_reuse::{Base, Grid, Reduction, ReuseEngine};

use super::case::{Cases, zeros};
use crate::CubeReuseError;

/// Channels of a head, where a case is not about them.
const DIM: usize = 128;
const PAIRINGS: [(&str, Pairing); 2] = [("interleaved", Pairing::Interleaved), ("half", Pairing::Half)];

/// Runs every case.
pub(super) fn run_all(cases: &Cases) {
    units(cases);
    rotation(cases);
    compaction(cases);
    selection(cases);
    leaves(cases);
    segments(cases);
    codes(cases);
    code_pages(cases);
    spherical(cases);
    decode(cases);
    decode_with_options(cases);
    prefill(cases);
    step_reuse(cases);
    ceilings(cases);
}

/// Heads of keys and values and their channels: as many as a vector takes, and as few as none does.
const STORES: [(usize, usize); 2] = [(2, DIM), (1, 3)];

fn spec(heads: usize, dim: usize, dtype: DType) -> StoreSpec {
    StoreSpec { slots: 2, tokens_per_unit: 4, kv_heads: heads, head_dim_k: dim, head_dim_v: dim, dtype }
}

/// Of units of four tokens at four positions.
fn unit_rotation(pairing: Pairing, dim: usize, frequencies: &[f64]) -> Rotation<'_> {
    const POSITIONS: [i32; 16] = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3];
    Rotation {
        pairing,
        rotary_dim: dim,
        first_pair: 0,
        frequencies: &frequencies[..dim / 2],
        axes: &[],
        deltas: &[&POSITIONS],
        tokens_per_delta: 1,
        scale: 1.0,
    }
}

const SLOTS: [SlotId; 2] = [SlotId(0), SlotId(1)];

/// Frames in slots: the whole of [`Engine`].
fn units(cases: &Cases) {
    for (heads, dim) in STORES {
        let of = format!("{heads} heads of {dim}");
        for (name, summaries) in [("write", Summaries::Skip), ("write with moments", Summaries::Moments)] {
            cases.each(format!("{name}, {of}"), |e, dtype| {
                let mut store = e.create_store(&spec(heads, dim, dtype))?;
                let kv = zeros(e, &[4, heads, dim], dtype)?;
                e.write(&mut store, &SLOTS[..1], &kv, &kv, summaries)
            });
        }
        // More slots than ride with a launch.
        cases.each(format!("write many units, {of}"), |e, dtype| {
            let mut store = e.create_store(&spec(heads, dim, dtype))?;
            let kv = zeros(e, &[64 * 4, heads, dim], dtype)?;
            e.write(&mut store, &[SLOTS[0]; 64], &kv, &kv, Summaries::Moments)
        });
        cases.each(format!("moments, {of}"), |e, dtype| {
            let store = e.create_store(&spec(heads, dim, dtype))?;
            e.moments(&store, Side::Keys, &SLOTS).map(drop)
        });
        cases.each(format!("grow, {of}"), |e, dtype| {
            let mut store = e.create_store(&spec(heads, dim, dtype))?;
            e.grow_store(&mut store, 4)
        });
        cases.each(format!("align, {of}"), |e, dtype| {
            let mut store = e.create_store(&spec(heads, dim, dtype))?;
            let job = AlignJob { slots: vec![SLOTS[0]], trusted: vec![SLOTS[1]] };
            e.align(&mut store, 0.5, &[job])
        });
        cases.each(format!("mean logits, {of}"), |e, dtype| {
            let store = e.create_store(&spec(heads, dim, dtype))?;
            let q = zeros(e, &[4, 2 * heads, dim], dtype)?;
            e.mean_logits(&store, &q, &[SLOTS.to_vec()]).map(drop)
        });
        cases.each(format!("gather units, {of}"), |e, dtype| {
            let store = e.create_store(&spec(heads, dim, dtype))?;
            e.gather(&store, Side::Values, &SLOTS, None).map(drop)
        });
        cases.each(format!("attend, {of}"), |e, dtype| {
            let mut store = e.create_store(&spec(heads, dim, dtype))?;
            let q = zeros(e, &[4, 2 * heads, dim], dtype)?;
            let mut out = zeros(e, &[4, 2 * heads, dim], DType::F32)?;
            let table = AttendTable { slots: &SLOTS, positions: &[0, 1], query_position: 0 };
            e.attend(&mut store, None, &q, &[table], &mut out)
        });
    }
    // So many tokens that a task is cut by its keys.
    cases.each(format!("attend, long, heads of {DIM}"), |e, dtype| {
        let mut store = e.create_store(&StoreSpec { tokens_per_unit: 256, ..spec(2, DIM, dtype) })?;
        let q = zeros(e, &[256, 4, DIM], dtype)?;
        let mut out = zeros(e, &[256, 4, DIM], DType::F32)?;
        let table = AttendTable { slots: &SLOTS, positions: &[0, 1], query_position: 0 };
        e.attend(&mut store, None, &q, &[table], &mut out)
    });
    let frequencies = vec![0.5; DIM / 2];
    for (pairs, pairing) in PAIRINGS {
        for (heads, dim) in [(1, 6), (2, 64), (2, DIM)] {
            let of = format!("{pairs}, {heads} heads of {dim}");
            cases.each(format!("gather units, {of}"), |e, dtype| {
                let store = e.create_store(&spec(heads, dim, dtype))?;
                let rotation = e.upload_rotation(&unit_rotation(pairing, dim, &frequencies))?;
                e.gather(&store, Side::Keys, &SLOTS, Some((&rotation, &[0, 1]))).map(drop)
            });
            cases.each(format!("attend, {of}"), |e, dtype| {
                let mut store = e.create_store(&spec(heads, dim, dtype))?;
                let rotation = e.upload_rotation(&unit_rotation(pairing, dim, &frequencies))?;
                let q = zeros(e, &[4, 2 * heads, dim], dtype)?;
                let mut out = zeros(e, &[4, 2 * heads, dim], DType::F32)?;
                let table = AttendTable { slots: &SLOTS, positions: &[0, 1], query_position: 0 };
                e.attend(&mut store, Some(&rotation), &q, &[table], &mut out)
            });
        }
    }
}

fn rotation(cases: &Cases) {
    let frequencies = vec![0.5; DIM / 2];
    let rotation = |pairing, rotary_dim: usize| Rotation {
        pairing,
        rotary_dim,
        first_pair: 0,
        frequencies: &frequencies[..rotary_dim / 2],
        axes: &[],
        deltas: &[&[1]],
        tokens_per_delta: 4,
        scale: 1.0,
    };
    for (name, pairing) in PAIRINGS {
        cases.each(format!("rotate in place, {name}"), |e, dtype| {
            let rotation = e.upload_rotation(&rotation(pairing, DIM))?;
            e.rotate(&mut zeros(e, &[4, 8, DIM], dtype)?, TokenLayout::Nhd, &rotation)
        });
        for (layout, name_of_layout) in [(TokenLayout::Nhd, "NHD"), (TokenLayout::Hnd, "HND")] {
            cases.each(format!("rotated copy, {name}, {name_of_layout}"), |e, dtype| {
                let rotation = e.upload_rotation(&rotation(pairing, DIM))?;
                e.rotated(&zeros(e, &[4, 4, DIM], dtype)?, layout, &rotation).map(drop)
            });
        }
        cases.each(format!("rotate in place, {name}, a frame"), |e, dtype| {
            let frame = Rotation { tokens_per_delta: 512, ..rotation(pairing, DIM) };
            e.rotate(&mut zeros(e, &[512, 8, DIM], dtype)?, TokenLayout::Nhd, &e.upload_rotation(&frame)?)
        });
        cases.each(format!("rotated copy, {name}, a frame of an odd head"), |e, dtype| {
            let frame = Rotation { tokens_per_delta: 512, ..rotation(pairing, 6) };
            e.rotated(&zeros(e, &[512, 2, 7], dtype)?, TokenLayout::Nhd, &e.upload_rotation(&frame)?)
                .map(drop)
        });
        cases.each(format!("rotated copy, {name}, half a head"), |e, dtype| {
            let rotation = e.upload_rotation(&rotation(pairing, DIM / 2))?;
            e.rotated(&zeros(e, &[4, 8, DIM], dtype)?, TokenLayout::Nhd, &rotation).map(drop)
        });
        cases.each(format!("rotated copy, {name}, an odd head"), |e, dtype| {
            let rotation = e.upload_rotation(&rotation(pairing, 6))?;
            e.rotated(&zeros(e, &[4, 1, 7], dtype)?, TokenLayout::Nhd, &rotation).map(drop)
        });
    }
}

fn compaction(cases: &Cases) {
    for (layout, name) in [(TokenLayout::Nhd, "NHD"), (TokenLayout::Hnd, "HND")] {
        for dim in [DIM, 3] {
            cases.each(format!("gather rows, {name}, {dim} channels"), |e, dtype| {
                let indices = e.upload_indices(&[2, 1], &[0, 1])?;
                e.gather_rows(&zeros(e, &[2, 2, dim], dtype)?, layout, &indices).map(drop)
            });
            cases.each(format!("gather rows of two, {name}, {dim} channels"), |e, dtype| {
                let indices = e.upload_indices(&[2, 1], &[0, 1])?;
                let x = zeros(e, &[2, 2, dim], dtype)?;
                e.gather_rows_of_two((&x, &x), layout, &indices).map(drop)
            });
        }
    }
    for page in [16 * DIM, 3] {
        cases.each(format!("gather pages, {page} elements"), |e, dtype| {
            let indices = e.upload_indices(&[1], &[1])?;
            e.gather_pages(&zeros(e, &[2, page], dtype)?, &indices).map(drop)
        });
        cases.each(format!("gather pages of two, {page} elements"), |e, dtype| {
            let indices = e.upload_indices(&[1], &[1])?;
            let pool = zeros(e, &[2, page], dtype)?;
            e.gather_pages_of_two((&pool, &pool), &indices).map(drop)
        });
    }
    for dim in [DIM, 3] {
        cases.each(format!("write rows of {dim} channels"), |e, dtype| {
            let rows = e.upload_indices(&[1], &[1])?;
            let mut pool = zeros(e, &[2, dim], dtype)?;
            e.write_rows(&mut pool, &rows, &zeros(e, &[1, dim], dtype)?)
        });
        cases.each(format!("write rows of two of {dim} channels"), |e, dtype| {
            let rows = e.upload_indices(&[1], &[1])?;
            let (mut k, mut v) = (zeros(e, &[2, dim], dtype)?, zeros(e, &[2, dim], dtype)?);
            let x = zeros(e, &[1, dim], dtype)?;
            e.write_rows_together(&mut [(&mut k, &x), (&mut v, &x)], &rows)
        });
    }
}

/// Numbers for each token that scores are made of.
fn leaves(cases: &Cases) {
    cases.once("rows of lists", |e| {
        let (pages, indptr, lengths) = (&[0, 1], &[0, 1, 2], &[16, 16]);
        let tables = BlockTables { page_size: 16, groups: 2, indptr, pages, lengths };
        e.list_rows(&e.upload_tables(&tables)?).map(drop)
    });
    cases.once("rows of chosen tokens", |e| {
        let (pages, indptr, lengths) = (&[0, 1], &[0, 1, 2], &[16, 16]);
        let tables = BlockTables { page_size: 16, groups: 2, indptr, pages, lengths };
        let chosen = e.upload_indices(&[2, 2], &[3, 5, 4, 6])?;
        let tokens = ChosenTokens { first: 1, chosen: &chosen, last: 2 };
        e.chosen_rows(&e.upload_tables(&tables)?, &tokens).map(drop)
    });
    let queries = 4;
    let spans = ScoreLeaf::SpanAttention { queries, span: 8, best: 4 };
    let expected = |covariance| ScoreLeaf::ExpectedAttention { future: 8, sink: 2, covariance };
    for (name, leaf) in [
        ("lengths of keys", ScoreLeaf::KeyNorm),
        ("cosines of keys", ScoreLeaf::KeyMeanCosine),
        ("likeness of keys", ScoreLeaf::KeyRedundancy { newest: queries }),
        ("mean logits", ScoreLeaf::MeanLogit { queries }),
        ("sums of attention", ScoreLeaf::AttentionSums),
        ("attention of a window", ScoreLeaf::WindowAttention { queries, smoothing: Pool::None }),
        ("attention of sampled queries", ScoreLeaf::SampledAttention { queries }),
        ("attention of largest logits", ScoreLeaf::LargestAttention { queries }),
        ("attention to spans", spans),
        ("attention of probes", ScoreLeaf::ProbeAttention { smoothing: Pool::None }),
        ("expected attention", expected(true)),
        ("expected attention of means", expected(false)),
        ("norms under a projection", ScoreLeaf::ProjectedValueNorm),
        ("spreads of keys", ScoreLeaf::KeySpread { first: 2, size: 8 }),
        ("saliency in frames", ScoreLeaf::FrameSaliency),
        ("gate of frames", ScoreLeaf::FrameGate { kept: 4 }),
    ] {
        cases.each(format!("observe {name}"), |e, dtype| {
            let pool = zeros(e, &[4, 16, 1, DIM], dtype)?;
            let rotation = MeanRotation::new((&[0.5], Pairing::Half), 1.0, (32, 8), DIM)?;
            let rows = e.upload_indices(&[2, 32], &[0; 64])?;
            let layer = ObservedLayer {
                sums: Some(&zeros(e, &[4, 16, 1, 4], DType::F32)?),
                queries: Some(&zeros(e, &[8, queries, DIM], dtype)?),
                probe_keys: Some(&zeros(e, &[2, queries, DIM], dtype)?),
                rotation: Some(&rotation),
                projection: Some(&zeros(e, &[8, 16, DIM], DType::F32)?),
                raw_keys: Some(&zeros(e, &[32, 2, DIM], dtype)?),
                grid: Some(&TokenGrid {
                    neighbours: vec![[0; NEIGHBOURS]; 32],
                    newest: (16..32).collect(),
                    older: (0..16).collect(),
                }),
                ..ObservedLayer::new((&pool, &pool), &rows, 0.1)
            };
            e.observe(&leaf, &layer).map(drop)
        });
    }
}

/// What is made of rows, stands for rows, or says which pages are read.
fn segments(cases: &Cases) {
    for to in [None, Some(DType::F32)] {
        let name = if to.is_some() { "in f32" } else { "as they are" };
        cases.each(format!("weighted means of rows, {name}"), |e, dtype| {
            let lists = RowLists { starts: &[0, 2], rows: &[0, 1], weights: &[1.0, 0.5] };
            e.weighted_rows(&zeros(e, &[2, DIM], dtype)?, &lists, to.unwrap_or(dtype)).map(drop)
        });
    }
    cases.each("join similar rows".to_owned(), |e, dtype| {
        let (keys, values) = (zeros(e, &[4, DIM], dtype)?, zeros(e, &[4, DIM], dtype)?);
        let (kept, leaving) = (e.upload_indices(&[2], &[0, 1])?, e.upload_indices(&[2], &[2, 3])?);
        let (keys, values, kept, leaving) = (&keys, &values, &kept, &leaving);
        e.join_similar(&SimilarRows { keys, values, kept, leaving, threshold: 0.0, most: 2 }).map(drop)
    });
    cases.each("attend to stand-ins".to_owned(), |e, dtype| {
        let (keys, values) = (zeros(e, &[2, DIM], DType::F32)?, zeros(e, &[2, DIM], DType::F32)?);
        let stand_ins = StandIns { keys: &keys, values: &values, biases: &zeros(e, &[2], DType::F32)? };
        let q = zeros(e, &[1, 8, DIM], dtype)?;
        let (mut out, mut lse) = (zeros(e, &[1, 8, DIM], dtype)?, zeros(e, &[1, 8], DType::F32)?);
        e.attend_stand_ins(&q, &stand_ins, 0..1, 0.1, (&mut out, &mut lse))
    });
    cases.each("bounds of pages".to_owned(), |e, dtype| {
        let mut bounds = zeros(e, &[2, 1, 2, DIM], dtype)?;
        e.write_page_bounds(&mut bounds, &zeros(e, &[2, 16, 1, DIM], dtype)?, &e.upload_indices(&[1], &[1])?)
    });
    cases.each("choose pages".to_owned(), |e, dtype| {
        let mut table = e.create_page_table(8)?;
        e.write_page_table(&mut table, &[0, 1, 2, 3, 4, 5, 6, 7], &[0, 1, 2, 3, 4, 5, 6, 7])?;
        let lists = PageLists { page_size: 16, groups: 2, starts: &[0, 4], lengths: &[60, 60] };
        let (q, bounds) = (zeros(e, &[1, 8, DIM], dtype)?, zeros(e, &[8, 1, 2, DIM], dtype)?);
        let (q, bounds, table, lists) = (&q, &bounds, &table, &lists);
        e.choose_pages(&PageChoice { q, bounds, table, lists, run: 1, between: 0..3, count: 1 }).map(drop)
    });
}

fn selection(cases: &Cases) {
    for columns in [64, 4096, 32_768, 1 << 20] {
        cases.once(format!("top k, 8 of {columns}"), |e| {
            e.top_k(&zeros(e, &[2, columns], DType::F32)?, 8).map(drop)
        });
    }
    for op in [
        ScoreOp::Linear { by: 2.0, plus: 1.0 },
        ScoreOp::Sum,
        ScoreOp::Product,
        ScoreOp::Columns { first: 3, count: 497, by: -1.0, reversed: false },
        ScoreOp::Columns { first: 3, count: 497, by: -1.0, reversed: true },
        ScoreOp::Ends { first: 3, last: 0, score: None },
        ScoreOp::Smooth(Pool::Mean(5)),
        ScoreOp::Smooth(Pool::Max(5)),
        ScoreOp::Softmax,
        ScoreOp::PerHighest { first: 1, last: 1 },
        ScoreOp::Rank { size: 8 },
        ScoreOp::HeadMean,
        ScoreOp::Finite,
        ScoreOp::Raise { count: 8, first: 1, last: 1 },
        ScoreOp::SpanMeans { first: 0, size: 8, end: 512 },
    ] {
        cases.once(format!("scores, {op:?}"), |e| {
            let scores = zeros(e, &[2, 512], DType::F32)?;
            e.score_op(&op, &[&scores, &scores][..op.inputs()]).map(drop)
        });
    }
    for pool in [Pool::None, Pool::Mean(5), Pool::Max(5)] {
        for dim in [64, DIM] {
            cases.each(format!("window scores, {pool:?}, {dim} channels"), |e, dtype| {
                let q = zeros(e, &[8, 32, dim], dtype)?;
                let k = zeros(e, &[2, 512, dim], dtype)?;
                e.window_scores(&q, &k, &WindowSpec { scale: 0.1, pool }).map(drop)
            });
        }
    }
}

const BITS: [(&str, Bits); 2] = [("4 bits", Bits::Four), ("8 bits", Bits::Eight)];

fn codes(cases: &Cases) {
    for (name, bits) in BITS {
        for (shared, grouping) in [("token", Grouping::Token), ("channel", Grouping::Channel(32))] {
            for dim in [DIM, 96] {
                cases.each(format!("quantise, {name} a {shared}, {dim} channels"), |e, dtype| {
                    let codes = e.quantise(&zeros(e, &[64, 2, dim], dtype)?, Format { bits, grouping })?;
                    e.dequantise(&codes, dtype).map(drop)
                });
            }
        }
    }
}

/// Pages of codes.
fn code_pages(cases: &Cases) {
    let mean = |mean| RowCodec::Spherical { bits: 4, mean };
    let published = RowCodec::SphericalPublished { tier: PublishedTier::High };
    for (name, keys, values) in [
        ("half precision", RowCodec::Half {}, RowCodec::Half {}),
        ("8 bits", RowCodec::Int { bits: 8, group: 64 }, RowCodec::Int { bits: 8, group: 64 }),
        ("4 bits", RowCodec::Int { bits: 4, group: 64 }, RowCodec::Int { bits: 4, group: 64 }),
        ("3 bits", RowCodec::Int { bits: 3, group: 48 }, RowCodec::Int { bits: 3, group: 48 }),
        ("KIVI", RowCodec::Kivi { bits: 4 }, RowCodec::Kivi { bits: 4 }),
        ("spherical", mean(MeanOf::Head), mean(MeanOf::Head)),
        ("spherical about pages' means", mean(MeanOf::Page), mean(MeanOf::Page)),
        ("trained directions", published, RowCodec::Half {}),
    ] {
        for group in [4, 12] {
            cases.each(format!("pages of codes, {name}, {group} queries a key"), |e, dtype| {
                let spec = CodeSpec { keys, values, head_dims: (DIM, DIM), page_size: 32, pages: 2 };
                let mut codes = e.create_codes(&spec)?;
                let x = zeros(e, &[32, 2, DIM], dtype)?;
                let frame = |side: Side| match spec.codec(side).frame_len(DIM) {
                    0 => Ok(None),
                    len => zeros(e, &[2, len], DType::F32).map(Some),
                };
                if spec.codec(Side::Keys).frame_len(DIM) == DIM {
                    e.code_frames(&codes, Side::Keys, &x)?;
                }
                let (keys, values) = (frame(Side::Keys)?, frame(Side::Values)?);
                let frames = || CodeFrames { keys: keys.as_ref(), values: values.as_ref() };
                e.write_codes(&mut codes, &[0, 1], [&x, &x], &frames())?;
                e.restore_codes(&codes, &[0, 1], &frames(), dtype)?;
                let tables = BlockTables {
                    page_size: 32,
                    groups: 2,
                    indptr: &[0, 1, 2],
                    pages: &[0, 1],
                    lengths: &[32, 32],
                };
                let (tables, q) = (e.upload_tables(&tables)?, zeros(e, &[1, 2 * group, DIM], dtype)?);
                let (out, lse) = e.attend_codes(&q, &codes, &frames(), &tables, 0.1)?;
                e.merge_attention((&out, &lse), (&out, &lse)).map(drop)
            });
        }
    }
}

fn decode(cases: &Cases) {
    let tables = |pages: &'static [u32], page_size, indptr, lengths| BlockTables {
        page_size,
        groups: 1,
        indptr,
        pages,
        lengths,
    };
    // One short list is attended to at once; a longer one in parts.
    let short = tables(&[0], 16, &[0, 1], &[16]);
    let long = tables(&[0; 64], 16, &[0, 64], &[1024]);
    let small_pages = tables(&[0; 256], 4, &[0, 256], &[1024]);
    for (name, tables) in [("in one part", short), ("in parts", long), ("pages of 4", small_pages)] {
        for (dim, query_heads) in [(64, 2), (DIM, 2), (DIM, 8), (DIM, 32)] {
            let group = query_heads / 2;
            cases.each(format!("decode {name}, {dim} channels, groups of {group}"), |e, dtype| {
                let q = zeros(e, &[1, query_heads, dim], dtype)?;
                let kv = zeros(e, &[1, tables.page_size, 2, dim], dtype)?;
                e.decode(&q, &kv, &kv, &e.upload_tables(&tables)?, 0.1).map(drop)
            });
        }
    }
    for (name, bits) in BITS {
        for (part, tables) in [("in one part", short), ("in parts", long)] {
            cases.each(format!("decode {name} {part}"), |e, dtype| {
                let q = zeros(e, &[1, 8, DIM], dtype)?;
                let kv = zeros(e, &[1, 16, 2, DIM], dtype)?;
                let kv = e.quantise(&kv, Format { bits, grouping: Grouping::Token })?;
                e.decode_codes(&q, &kv, &kv, &e.upload_tables(&tables)?, 0.1).map(drop)
            });
        }
    }
}

fn decode_with_options(cases: &Cases) {
    let plain = AttendOptions::scaled(0.1);
    let per_head = |heads: usize| vec![0.5; heads];
    let all = |heads| AttendOptions {
        softcap: Some(30.0),
        window: Some(100),
        alibi: per_head(heads),
        sinks: per_head(heads),
        ..plain.clone()
    };
    let options = [
        ("a scale", plain.clone()),
        ("a soft cap", AttendOptions { softcap: Some(30.0), ..plain.clone() }),
        ("a window", AttendOptions { window: Some(100), ..plain.clone() }),
        ("slopes", AttendOptions { alibi: per_head(8), ..plain.clone() }),
        ("sinks", AttendOptions { sinks: per_head(8), ..plain.clone() }),
        ("all options", all(8)),
    ];
    let cases_of = (options.into_iter().map(|(name, options)| (name, 8, 16, options)))
        .chain([("all options, groups of 16", 32, 16, all(32)), ("all options, pages of 4", 8, 4, all(8))]);
    for (name, heads, page_size, options) in cases_of {
        for (part, tokens) in [("in one part", 16), ("in parts", 1024)] {
            for (placed, given) in [("places", false), ("positions", true)] {
                cases.each(format!("decode with {name}, {part}, by {placed}"), |e, dtype| {
                    let pages = vec![0; tokens / page_size];
                    let (indptr, lengths) = ([0, pages.len() as u32], [tokens as u32]);
                    let (pages, indptr, lengths) = (&pages[..], &indptr[..], &lengths[..]);
                    let tables = BlockTables { page_size, groups: 1, indptr, pages, lengths };
                    let q = zeros(e, &[1, heads, DIM], dtype)?;
                    let kv = zeros(e, &[1, page_size, 2, DIM], dtype)?;
                    let rows = e.upload_indices(&[1, page_size, 2], &vec![0; 2 * page_size])?;
                    let token = e.upload_indices(&[1], &[0])?;
                    let queries = NewQueries { q: &q, starts: &[0, 1], positions: given.then_some(&token) };
                    let kv = PagedKv { k: &kv, v: &kv, positions: given.then_some(&rows) };
                    let (tables, attention) = (e.upload_tables(&tables)?, e.upload_attention(&options)?);
                    let (_, lse) = e.attend_paged(&queries, &kv, &tables, &attention)?;
                    let mut sums = zeros(e, &[1, page_size, 2, heads / 2], DType::F32)?;
                    e.add_attention(&mut sums, &queries, &kv, &tables, &attention, &lse)
                });
            }
        }
    }
}

/// Blocks of queries, alone and beside single tokens.
fn prefill(cases: &Cases) {
    let tables = |lengths: &'static [u32]| {
        let (indptr, pages): (&[u32], &[u32]) =
            if lengths.len() > 1 { (&[0, 64, 128], &[0; 128]) } else { (&[0, 64], &[0; 64]) };
        BlockTables { page_size: 16, groups: 1, indptr, pages, lengths }
    };
    // So many keys that they are shared out, in the last two.
    let batches: [(&str, &[u32], &[u32]); 3] = [
        ("a block", &[0, 40], &[40]),
        ("a short block of a long list", &[0, 24], &[1024]),
        ("a block and a token", &[0, 24, 25], &[1024, 1024]),
    ];
    for (name, starts, lengths) in batches {
        for dim in [64, 80, DIM, 256] {
            cases.each(format!("attend to pages, {name}, {dim} channels"), |e, dtype| {
                let q = zeros(e, &[starts[starts.len() - 1] as usize, 8, dim], dtype)?;
                let pool = zeros(e, &[1, 16, 2, dim], dtype)?;
                let attention = e.upload_attention(&AttendOptions::scaled(0.1))?;
                let queries = NewQueries { q: &q, starts, positions: None };
                let kv = PagedKv { k: &pool, v: &pool, positions: None };
                e.attend_paged(&queries, &kv, &e.upload_tables(&tables(lengths))?, &attention).map(drop)
            });
        }
    }
}

fn core(error: CubeReuseError) -> CoreError {
    match error {
        CubeReuseError::Engine(error) => error,
        other => CoreError::Device { engine: "step reuse", message: other.to_string() },
    }
}

/// Lengths that vectors divide and that none does.
const LENGTHS: [usize; 2] = [3 * 1024, 3 * 1025];

fn step_reuse(cases: &Cases) {
    for len in LENGTHS {
        let grid = Grid { frames: 3, tokens: len / 3 };
        let wide = Grid { frames: 1, tokens: 1 };
        cases.each(format!("mean magnitude of {len}"), |e, dtype| {
            let x = zeros(e, &[len], dtype)?;
            e.queue_signals(&[Reduction::MeanAbs(&x)], wide).map(drop).map_err(core)
        });
        cases.each(format!("distance of {len}"), |e, dtype| {
            let (x, y) = (zeros(e, &[len], dtype)?, zeros(e, &[len], dtype)?);
            e.queue_signals(&[Reduction::RelL1(&x, &y)], wide).map(drop).map_err(core)
        });
        for (grid, name) in [(grid, "short"), (wide, "long")] {
            cases.each(format!("ratio of {name} tokens, {len}"), |e, dtype| {
                let (x, y) = (zeros(e, &[len], dtype)?, zeros(e, &[len], dtype)?);
                e.queue_signals(&[Reduction::TokenRatio(&x, &y)], grid).map(drop).map_err(core)
            });
        }
        cases.each(format!("copy of {len}"), |e, dtype| {
            e.copy(&zeros(e, &[len], dtype)?).map(drop).map_err(core)
        });
        for terms in 1..=5 {
            cases.each(format!("ladder of {terms}, {len}"), |e, dtype| {
                let x = zeros(e, &[len], dtype)?;
                let mut rungs = (0..terms).map(|_| zeros(e, &[len], dtype)).collect::<Result<Vec<_>, _>>()?;
                e.climb(&x, &mut rungs, terms, 1.0).map_err(core)
            });
            cases.each(format!("sum of {terms}, {len}"), |e, dtype| {
                let (x, mut out) = (zeros(e, &[len], dtype)?, zeros(e, &[len], dtype)?);
                e.combine(Base::Tensor(&x), &vec![(0.5, &x); terms], None, &mut out).map_err(core)
            });
        }
        for (channels, name) in [(1, "one line"), (len / 3, "a line a channel")] {
            cases.each(format!("corrected sum in place, {name}, {len}"), |e, dtype| {
                let (x, mut out) = (zeros(e, &[len], dtype)?, zeros(e, &[len], dtype)?);
                let numbers = vec![0.5; channels];
                let affine = Some((&numbers[..], &numbers[..]));
                e.combine(Base::InPlace, &[(1.0, &x)], affine, &mut out).map_err(core)
            });
        }
    }
}

/// What benchmarks compare with.
fn ceilings(cases: &Cases) {
    cases.each("ceilings", |e, dtype| {
        let from = e.noise(&[4096], dtype, 1)?;
        let to = e.noise(&[4096], DType::F32, 1)?;
        e.copy_through(&from, &from)?;
        e.read_through(&from, &to)?;
        e.multiply_through(&to, 1, dtype);
        e.launch_nothing(&to);
        Ok(())
    });
}

/// Spherical codes, and attention over them.
fn spherical(cases: &Cases) {
    use SphericalBits::{Four, Three, Two};
    for bits in SphericalBits::ALL {
        for (side, dim) in [(Side::Keys, DIM), (Side::Values, 80)] {
            let format = SphericalFormat::of(side, bits);
            let of = format!("{} bits, {side:?} of {dim}", bits.bits());
            cases.each(format!("code spherically, {of}"), |e, dtype| {
                let frame = e.upload_frame(&SphericalFrame::uncentred(2, dim, 1)?)?;
                let codes = e.quantise_spherical(&zeros(e, &[4, 2, dim], dtype)?, &frame, format)?;
                e.dequantise_spherical(&codes, &frame, dtype).map(drop)
            });
        }
    }
    cases.each("code spherically, in a pool", |e, dtype| {
        let format = SphericalFormat::of(Side::Keys, Four);
        let frame = e.upload_frame(&SphericalFrame::uncentred(2, DIM, 1)?)?;
        let mut pool = e.upload_spherical(&HostSpherical::zeros(&[2, 4, 2, DIM], format)?)?;
        let rows = e.upload_indices(&[1, 2], &[3, 1])?;
        e.write_spherical(&mut pool, &rows, &zeros(e, &[1, 2, DIM], dtype)?, &frame)
    });
    for (bits_k, bits_v) in [(Four, Four), (Two, Four)] {
        let of = format!("{} and {} bits", bits_k.bits(), bits_v.bits());
        cases.each(format!("code keys and values spherically, {of}"), |e, dtype| {
            let pool = |side, bits| {
                let format = SphericalFormat::of(side, bits);
                e.upload_spherical(&HostSpherical::zeros(&[2, 4, 2, DIM], format)?)
            };
            let (mut k, mut v) = (pool(Side::Keys, bits_k)?, pool(Side::Values, bits_v)?);
            let frame = e.upload_frame(&SphericalFrame::uncentred(2, DIM, 1)?)?;
            let rows = e.upload_indices(&[1, 2], &[3, 1])?;
            let x = zeros(e, &[1, 2, DIM], dtype)?;
            e.write_spherical_pair([&mut k, &mut v], &rows, [&x, &x], [&frame, &frame])
        });
    }
    for (bits_k, bits_v) in [(Four, Four), (Two, Four), (Three, Three)] {
        for group in [4, 12] {
            let of = format!("{} and {} bits, {group} queries a key", bits_k.bits(), bits_v.bits());
            cases.each(format!("decode spherical, {of}"), |e, dtype| {
                let tables =
                    BlockTables { page_size: 16, groups: 1, indptr: &[0, 2], pages: &[1, 0], lengths: &[20] };
                let pool = |side, bits| {
                    e.upload_spherical(&HostSpherical::zeros(
                        &[2, 16, 1, DIM],
                        SphericalFormat::of(side, bits),
                    )?)
                };
                let (k, v) = (pool(Side::Keys, bits_k)?, pool(Side::Values, bits_v)?);
                let frame = e.upload_frame(&SphericalFrame::uncentred(1, DIM, 1)?)?;
                let q = zeros(e, &[1, group, DIM], dtype)?;
                let tables = e.upload_tables(&tables)?;
                e.decode_spherical(&q, (&k, &frame), (&v, &frame), &tables, 1.0).map(drop)
            });
        }
    }
}
