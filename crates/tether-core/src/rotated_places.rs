//! Which units stand rotated where, so that none is rotated again that still does.

use crate::SlotId;

/// What is kept of keys that are rotated on read: the unit at each place of a window, and the position that it is rotated to. A unit is rotated again
/// when it is written, edited or stands at another place or position, and not for another pass over the same window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RotatedPlaces {
    held: Vec<Option<(SlotId, u32)>>,
}

/// A unit that is to be rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitToRotate {
    /// Where it is stored.
    pub slot: SlotId,
    /// Its place in the window.
    pub place: usize,
    /// The position that it is rotated to.
    pub position: u32,
}

impl RotatedPlaces {
    /// The units of a window that do not stand where they should; from now on they do.
    pub fn stale(&mut self, wanted: impl IntoIterator<Item = (SlotId, u32)>) -> Vec<UnitToRotate> {
        let mut stale = Vec::new();
        for (place, (slot, position)) in wanted.into_iter().enumerate() {
            if place >= self.held.len() {
                self.held.resize(place + 1, None);
            }
            if self.held[place] != Some((slot, position)) {
                self.held[place] = Some((slot, position));
                stale.push(UnitToRotate { slot, place, position });
            }
        }
        stale
    }

    /// To be called when slots were written.
    pub fn written(&mut self, slots: &[SlotId]) {
        for held in &mut self.held {
            if held.is_some_and(|(slot, _)| slots.contains(&slot)) {
                *held = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_rotated_once_until_it_changes_or_moves() {
        let window = |slots: &[u32]| slots.iter().map(|&s| SlotId(s)).zip(0..).collect::<Vec<_>>();
        let places = |stale: Vec<UnitToRotate>| stale.iter().map(|u| u.place).collect::<Vec<_>>();
        let mut rotated = RotatedPlaces::default();
        assert_eq!(places(rotated.stale(window(&[4, 2, 7]))), [0, 1, 2]);
        assert_eq!(places(rotated.stale(window(&[4, 2, 7]))), []);
        rotated.written(&[SlotId(2), SlotId(9)]);
        assert_eq!(places(rotated.stale(window(&[4, 2, 7, 1]))), [1, 3]);
        assert_eq!(places(rotated.stale(window(&[4, 7, 2]))), [1, 2]);
        let moved = [(SlotId(4), 5), (SlotId(7), 1)];
        assert_eq!(rotated.stale(moved), [UnitToRotate { slot: SlotId(4), place: 0, position: 5 }]);
    }
}
