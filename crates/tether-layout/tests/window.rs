//! The window table: its timeline by hand, its invariants at random.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use proptest::prelude::*;
use tether_layout::{
    Archive, BlockPool, Csr, Extent, LayoutError, Region, RegionSpec, Regions, Rounding, SlotId, Window,
};

fn regions(sink: usize, memory: usize, recent: usize, chunk: usize) -> Result<Regions, LayoutError> {
    let spec = RegionSpec { sink, memory, recent: Extent::Units(recent), archive: Archive::None };
    Regions::try_new(&spec, chunk, Rounding::WholeChunks)
}

fn units(window: &Window) -> Vec<u64> {
    window.units().iter().map(|u| u.unwrap().0).collect()
}

#[test]
fn a_pool_hands_out_each_slot_once() {
    let mut pool = BlockPool::new(3);
    assert_eq!(pool.allocate(2).unwrap(), [0, 1]);
    assert_eq!(pool.allocate(2), Err(LayoutError::OutOfSlots { requested: 2, free: 1 }));
    assert_eq!((pool.free(), pool.in_use()), (1, 2));
    assert_eq!(pool.release(0), Ok(true));
    assert_eq!(pool.release(0), Err(LayoutError::NoSuchBlock { block: 0 }));
    assert_eq!(pool.release(9), Err(LayoutError::NoSuchBlock { block: 9 }));
    assert_eq!(pool.allocate(2).unwrap(), [0, 2]);
    pool.grow(5);
    assert_eq!((pool.capacity(), pool.free()), (5, 2));
}

#[test]
fn a_sliding_window_with_a_sink_reuses_slots() {
    let regions = regions(1, 0, 3, 1).unwrap();
    let mut pool = BlockPool::new(regions.initial_slots());
    let mut window = Window::new(regions);
    for _ in 0..4 {
        assert!(window.begin_chunk(&mut pool).unwrap().is_empty());
    }
    let gone = window.begin_chunk(&mut pool).unwrap();
    assert_eq!(gone[0].unit.0, 1);
    window.begin_chunk(&mut pool).unwrap();
    assert_eq!(units(&window), [0, 3, 4, 5]);
    assert_eq!(pool.in_use(), 4);
}

#[test]
fn selections_that_make_no_sense_are_refused_and_change_nothing() {
    let regions = regions(1, 2, 2, 1).unwrap();
    let mut pool = BlockPool::new(regions.initial_slots());
    let mut window = Window::new(regions);
    for _ in 0..6 {
        window.begin_chunk(&mut pool).unwrap();
        window.settle();
    }
    for keep in [&[0][..], &[1, 0], &[0, 0], &[1, 3], &[0, 1, 2]] {
        let before = (units(&window), pool.clone());
        assert!(matches!(window.admit(keep, &mut pool), Err(LayoutError::Selection { .. })), "{keep:?}");
        assert_eq!((units(&window), pool.clone()), before);
    }
    window.admit(&[1, 2], &mut pool).unwrap();
    assert!(window.candidates().is_empty());
    assert!(
        matches!(window.admit(&[0, 1], &mut pool), Err(LayoutError::Selection { .. })),
        "nothing is pending"
    );
}

#[test]
fn sizes_are_checked() {
    assert!(matches!(regions(2, 5, 4, 3), Err(LayoutError::CapacityNotMultiple { .. })));
    assert!(matches!(regions(1, 0, 2, 3), Err(LayoutError::RecentBelowChunk { .. })));
    assert!(matches!(regions(usize::MAX, 0, 1, 1), Err(LayoutError::Overflow { .. })));
    let all = serde_json::from_str::<RegionSpec>(r#"{"recent": "all"}"#).unwrap();
    assert_eq!(Regions::try_new(&all, 3, Rounding::WholeChunks).unwrap().capacity(), None);
    let sunk = RegionSpec { sink: 1, ..all.clone() };
    assert!(matches!(
        Regions::try_new(&sunk, 3, Rounding::WholeChunks),
        Err(LayoutError::UnboundedWithMemory { .. })
    ));
    let archive = RegionSpec { sink: 0, memory: 0, recent: Extent::Units(3), archive: Archive::All };
    assert!(matches!(Regions::try_new(&archive, 3, Rounding::WholeChunks), Err(LayoutError::Archive)));
}

#[test]
fn rows_for_paged_kernels() {
    let csr = Csr::from_tables([&[SlotId(4), SlotId(1)][..], &[], &[SlotId(2)]], 16);
    assert_eq!(csr.indptr, [0, 2, 2, 3]);
    assert_eq!(csr.indices, [4, 1, 2]);
    assert_eq!(csr.last_page_len, [16, 0, 16]);
}

proptest! {
    #[test]
    fn slots_are_never_shared_lost_or_moved(
        sink in 0usize..4, memory in 0usize..6, chunk in 1usize..4, extra in 0usize..4,
        choices in prop::collection::vec(any::<u32>(), 60),
    ) {
        let recent = chunk + extra + (chunk - (sink + memory + chunk + extra) % chunk) % chunk;
        let regions = regions(sink, memory, recent, chunk).unwrap();
        let capacity = regions.capacity().unwrap();
        let mut pool = BlockPool::new(regions.initial_slots());
        let mut window = Window::new(regions);
        let mut home = std::collections::HashMap::new();
        for choice in choices {
            window.begin_chunk(&mut pool).unwrap();
            window.settle();
            // Where a unit lies never changes while it lives.
            for (&slot, unit) in window.slots().iter().zip(window.units()) {
                let unit = unit.unwrap();
                prop_assert_eq!(*home.entry(unit).or_insert(slot), slot);
            }
            let candidates = window.candidates();
            if !candidates.is_empty() {
                // Any selection will do: leave out `chunk` candidates.
                let mut keep: Vec<usize> = (0..candidates.len()).collect();
                for i in 0..chunk {
                    keep.remove((choice as usize >> (i * 4)) % keep.len());
                }
                let plan = window.admit(&keep, &mut pool).unwrap();
                prop_assert_eq!(plan.keep.len() + plan.drop.len(), candidates.len());
                prop_assert!(plan.admit.iter().all(|a| plan.keep.contains(a)));
            }
            prop_assert!(window.slots().len() <= capacity);
            prop_assert_eq!(pool.in_use(), window.resident().len());
            let units = units(&window);
            prop_assert!(units.windows(2).all(|w| w[0] < w[1]), "{units:?}");
            let sink_now = &units[window.region(Region::Sink)];
            prop_assert!(sink_now.iter().enumerate().all(|(i, &u)| u == i as u64));
            let recent_units = (recent as u64).min(window.end());
            let last: Vec<u64> = (window.end() - recent_units..window.end()).collect();
            prop_assert!(units.ends_with(&last), "{units:?} should end with {last:?}");
        }
    }
}
