//! Where tokens stand in frames.

/// Places of a token's neighbours: of three by three, its own included.
pub const NEIGHBOURS: usize = 9;

/// Who stands beside whom, and which frame is the newest, of the tokens of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenGrid {
    /// Neighbours of each token in its frame, with one that stands where it does; those that are not there are the
    /// token itself.
    pub neighbours: Vec<[u32; NEIGHBOURS]>,
    /// Tokens of the newest frame.
    pub newest: Vec<u32>,
    /// Tokens of older frames.
    pub older: Vec<u32>,
}

impl TokenGrid {
    /// Tokens of the text.
    pub fn tokens(&self) -> usize {
        self.neighbours.len()
    }
}
