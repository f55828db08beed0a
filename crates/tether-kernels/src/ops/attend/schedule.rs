//! Block attention's work list: which rows and keys each cube has, so that the last wave of cubes is full and long rows start first.

use crate::kernels::attend::{ITEM_WORDS, WHOLE};
use crate::kernels::decode::MOST_PARTS;

/// Tiles that pass while a cube starts and finishes, and while the result of a part is stored and merged.
const CUBE_COST: f64 = 8.0;
const PART_COST: f64 = 4.0;

/// Tiles of a part, at least.
const LEAST_TILES: usize = 8;

/// Most rows of partial results: what they leave behind takes memory.
const MOST_PART_ROWS: usize = 1 << 20;

/// New tokens of a sequence, for one key head: their rows see the same list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueryList {
    /// Entry of the page table at which the list begins.
    pub(crate) first_page: u32,
    /// The first token in the batch, and how many they are.
    pub(crate) first_token: u32,
    pub(crate) tokens: u32,
    pub(crate) kv_head: u32,
    /// Keys that the first token sees; each further one sees one more, up to `length`.
    pub(crate) seen: u32,
    pub(crate) length: u32,
}

/// Sizes of a cube, and how many run at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CubeSize {
    pub(crate) rows: usize,
    pub(crate) tile: usize,
    pub(crate) at_once: usize,
}

/// The list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// Items in the order in which they start.
    pub(crate) items: Vec<u32>,
    /// An item of each task that has several.
    pub(crate) split: Vec<u32>,
    /// Rows of partial results.
    pub(crate) part_rows: usize,
}

/// Rows of a cube over all keys that they see.
#[derive(Clone, Copy, Debug)]
struct Task {
    list: QueryList,
    rows: usize,
    first_row: usize,
    /// Rows of this task.
    own: usize,
    keys: usize,
    tiles: usize,
}

/// How tasks become items: the first `whole` one each, the others as many as keep them within `chunk` tiles.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cut {
    whole: usize,
    chunk: usize,
}

impl Cut {
    fn parts(&self, number: usize, task: &Task) -> usize {
        if number < self.whole { 1 } else { task.tiles.div_ceil(self.chunk).clamp(1, MOST_PARTS) }
    }

    /// Tiles that pass until all is done, or nothing where it takes too much memory.
    fn cost(&self, tasks: &[Task], at_once: usize) -> Option<f64> {
        let (mut cubes, mut tiles, mut longest, mut rows) = (0, 0.0, 0.0f64, 0);
        let whole: usize = tasks[..self.whole].iter().map(|t| t.tiles).sum();
        for (number, task) in tasks.iter().enumerate() {
            let parts = self.parts(number, task);
            let extra = if parts > 1 { PART_COST } else { 0.0 };
            longest = longest.max(task.tiles.div_ceil(parts) as f64 + CUBE_COST + extra);
            if number >= self.whole {
                cubes += parts;
                tiles += task.tiles as f64 + parts as f64 * (CUBE_COST + extra);
                rows += if parts > 1 { parts * task.own } else { 0 };
            }
        }
        // Those that are whole fill whole waves.
        let before = whole as f64 / at_once as f64 + (self.whole / at_once) as f64 * CUBE_COST;
        let after = if cubes > 0 { cubes.div_ceil(at_once) as f64 * tiles / cubes as f64 } else { 0.0 };
        (rows <= MOST_PART_ROWS).then_some(longest.max(before + after))
    }

    /// The cheapest, of tasks that begin with the longest.
    fn of(tasks: &[Task], at_once: usize) -> Self {
        let in_waves = tasks.len() / at_once * at_once;
        let uncut = Self { whole: in_waves, chunk: usize::MAX };
        let mut best = (uncut, uncut.cost(tasks, at_once).unwrap_or(f64::INFINITY));
        for whole in [in_waves, 0] {
            let longest = tasks.get(whole).map_or(0, |t| t.tiles);
            for parts in (2..=16).chain([20, 24, 32, 48, 64, 96, 128]) {
                let chunk = longest.div_ceil(parts);
                if chunk < LEAST_TILES {
                    break;
                }
                let cut = Self { whole, chunk };
                if let Some(cost) = cut.cost(tasks, at_once).filter(|&cost| cost < best.1) {
                    best = (cut, cost);
                }
            }
        }
        best.0
    }
}

impl Schedule {
    /// For queries whose heads share key heads in groups of `group`.
    pub(crate) fn new(lists: &[QueryList], group: usize, cube: CubeSize) -> Self {
        let mut tasks: Vec<Task> = lists.iter().flat_map(|list| tasks_of(*list, group, cube)).collect();
        tasks.sort_by_key(|task| std::cmp::Reverse(task.tiles));
        let cut = Cut::of(&tasks, cube.at_once);
        let (mut items, mut part_rows) = (Vec::with_capacity(tasks.len()), 0);
        for (number, task) in tasks.iter().enumerate() {
            let parts = cut.parts(number, task);
            let place = part_rows;
            part_rows += if parts > 1 { parts * task.own } else { 0 };
            items.extend((0..parts).map(|part| task.item(cube.tile, place, (part, parts))));
        }
        // Stable: what shares keys stays together.
        items.sort_by_key(|item| std::cmp::Reverse((item[8] - item[7]).div_ceil(cube.tile as u32)));
        let first_parts = items.iter().enumerate().filter(|(_, item)| item[10] != WHOLE && item[11] == 0);
        let split = first_parts.map(|(number, _)| number as u32).collect();
        Self { split, items: items.into_flattened(), part_rows }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len() / ITEM_WORDS
    }
}

fn tasks_of(list: QueryList, group: usize, cube: CubeSize) -> impl Iterator<Item = Task> {
    let rows = list.tokens as usize * group;
    (0..rows).step_by(cube.rows).map(move |first_row| {
        let own = cube.rows.min(rows - first_row);
        let keys = (list.seen as usize + (first_row + own - 1) / group).min(list.length as usize);
        Task { list, rows, first_row, own, keys, tiles: keys.div_ceil(cube.tile) }
    })
}

impl Task {
    /// Part `part` of `parts`, as the kernels read it.
    fn item(&self, tile: usize, place: usize, (part, parts): (usize, usize)) -> [u32; ITEM_WORDS] {
        let key = |part: usize| ((self.tiles * part / parts * tile).min(self.keys)) as u32;
        let list = &self.list;
        let counted = if parts > 1 { parts as u32 } else { WHOLE };
        let (rows, first_row) = (self.rows as u32, self.first_row as u32);
        let rows = [list.first_page, list.first_token, rows, first_row, list.kv_head, list.seen, list.length];
        let keys = [key(part), key(part + 1), place as u32, counted, part as u32];
        let mut item = [0; ITEM_WORDS];
        item[..7].copy_from_slice(&rows);
        item[7..].copy_from_slice(&keys);
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUBE: CubeSize = CubeSize { rows: 256, tile: 32, at_once: 132 };

    fn list(kv_head: u32, tokens: u32, length: u32) -> QueryList {
        let seen = length - tokens + 1;
        QueryList { first_page: 0, first_token: 0, tokens, kv_head, seen, length }
    }

    /// Rows and keys of each item.
    fn items(schedule: &Schedule) -> Vec<&[u32]> {
        schedule.items.chunks_exact(ITEM_WORDS).collect()
    }

    fn cubes(tokens: u32, length: u32, heads: u32) -> Schedule {
        Schedule::new(&(0..heads).map(|head| list(head, tokens, length)).collect::<Vec<_>>(), 4, CUBE)
    }

    #[test]
    fn rows_see_their_keys_once() {
        for (tokens, length, heads) in [(1, 9000, 8), (2048, 2048, 8), (2048, 32_768, 8), (100, 20_000, 2)] {
            let schedule = cubes(tokens, length, heads);
            let mut seen = std::collections::BTreeMap::new();
            for item in items(&schedule) {
                assert!(item[7] < item[8], "no item is empty");
                *seen.entry((item[4], item[3])).or_insert(0) += item[8] - item[7];
            }
            assert_eq!(seen.len() as u32, heads * (tokens * 4).div_ceil(256));
            for ((_, first_row), keys) in seen {
                let last = (first_row + 255).min(tokens * 4 - 1);
                assert_eq!(keys, length - tokens + 1 + last / 4, "{tokens} over {length}");
            }
        }
    }

    #[test]
    fn few_rows_share_the_device_by_their_keys() {
        let few = cubes(16, 32_768, 8);
        assert!((100..=300).contains(&few.len()), "{}", few.len());
        assert_eq!(few.split.len(), 8);
        assert_eq!(few.part_rows, few.len() * 64);
        // Two full waves, or short rows, are left alone.
        assert_eq!(cubes(2048, 32_768, 8).split.len(), 0);
        assert_eq!(cubes(64, 64, 8).split.len(), 0);
    }

    #[test]
    fn the_last_wave_is_full() {
        // 228 tasks on 132 places: the 96 of the second wave are cut.
        let heads = cubes(1216, 37_440, 12);
        assert_eq!((heads.split.len(), heads.len() > 228), (96, true), "{}", heads.len());
    }

    #[test]
    fn a_long_sequence_among_short_ones_is_cut() {
        let mut lists: Vec<_> = (0..8).map(|head| list(head, 64, 100_000)).collect();
        lists.extend((0..160).map(|head| list(head, 60, 100)));
        let schedule = Schedule::new(&lists, 4, CUBE);
        assert_eq!(schedule.split.len(), 8);
        let longest = items(&schedule).iter().map(|item| item[8] - item[7]).max();
        assert!(longest < Some(12_000), "{longest:?}");
    }

    #[test]
    fn the_longest_start_first() {
        let schedule = cubes(2048, 2048, 8);
        let lengths: Vec<u32> = items(&schedule).iter().map(|item| item[8] - item[7]).collect();
        assert!(lengths.is_sorted_by(|a, b| a.div_ceil(32) >= b.div_ceil(32)));
    }
}
