//! One token's attention on the host over codes, beside the same over numbers: 8 key heads of 128 channels that 4 query
//! heads each share, 4096 tokens, one thread.

#![allow(missing_docs, reason = "criterion's macros define functions")]

use criterion::{Criterion, criterion_group, criterion_main};
use tether_benches::random;
use tether_core::{
    BlockTables, CodeFrames, CodeSpec, DType, HostTensor, MeanOf, RowCodec, Side, TokenEngine,
};
use tether_host::Host;

const HEADS: usize = 8;
const GROUP: usize = 4;
const DIM: usize = 128;
const TOKENS: usize = 4096;
const PAGE: usize = 32;

fn tensor(shape: &[usize], seed: u64) -> HostTensor {
    HostTensor::from_f32(shape, random(shape.iter().product(), seed)).expect("the shape should fit")
}

fn codes(c: &mut Criterion) {
    let host = Host::new();
    let pages = HEADS * TOKENS / PAGE;
    let all: Vec<u32> = (0..pages as u32).collect();
    let of_head = TOKENS / PAGE;
    let indptr: Vec<u32> = (0..=HEADS).map(|head| (head * of_head) as u32).collect();
    let tables = BlockTables {
        page_size: PAGE,
        groups: HEADS,
        indptr: &indptr,
        pages: &all,
        lengths: &[TOKENS as u32; HEADS],
    };
    let tables = host.upload_tables(&tables).expect("the tables should fit");
    let q = tensor(&[1, HEADS * GROUP, DIM], 1);
    let scale = 1.0 / (DIM as f32).sqrt();
    let mut group = c.benchmark_group("decode of 4096 tokens, 8 x 128, 4 queries a key");
    let pool = |seed| tensor(&[pages, PAGE, 1, DIM], seed);
    let (k, v) = (pool(2), pool(3));
    group.bench_function("f32", |b| b.iter(|| host.decode(&q, &k, &v, &tables, scale)));
    let x = |seed| tensor(&[PAGE, pages, DIM], seed);
    let (k, v) = (x(2), x(3));
    let spherical = |bits| RowCodec::Spherical { bits, mean: MeanOf::Head };
    for (name, keys, values) in [
        ("int8", RowCodec::Int { bits: 8, group: 64 }, RowCodec::Int { bits: 8, group: 64 }),
        ("int4", RowCodec::Int { bits: 4, group: 64 }, RowCodec::Int { bits: 4, group: 64 }),
        ("kivi", RowCodec::Kivi { bits: 4 }, RowCodec::Kivi { bits: 4 }),
        ("spherical 4", spherical(4), spherical(4)),
        ("spherical 3", spherical(3), spherical(3)),
        ("spherical 6", spherical(6), spherical(6)),
    ] {
        let spec = CodeSpec { keys, values, head_dims: (DIM, DIM), page_size: PAGE, pages };
        let mut codes = host.create_codes(&spec).expect("the sizes are in range");
        let means = |count: usize, side| {
            let len = spec.codec(side).frame_len(DIM);
            (len > 0).then(|| HostTensor::zeros(&[count, len], DType::F32).expect("the shape should fit"))
        };
        let of_pages = (means(pages, Side::Keys), means(pages, Side::Values));
        let frames = CodeFrames { keys: of_pages.0.as_ref(), values: of_pages.1.as_ref() };
        host.write_codes(&mut codes, &all, [&k, &v], &frames).expect("the rows should fit");
        let of_heads = (means(HEADS, Side::Keys), means(HEADS, Side::Values));
        let frames = CodeFrames { keys: of_heads.0.as_ref(), values: of_heads.1.as_ref() };
        let attend = || host.attend_codes(&q, &codes, &frames, &tables, scale);
        attend().expect("the tables should fit");
        group.bench_function(name, |b| b.iter(attend));
    }
    group.finish();
}

criterion_group!(benches, codes);
criterion_main!(benches);
