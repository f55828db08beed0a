//! Errors of layouts.

/// What can be wrong with a layout or a request to it. The layout is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The recent region must hold the chunk that is being generated.
    #[error("layout.recent = {recent} is smaller than the chunk of {chunk} units that it must hold")]
    RecentBelowChunk {
        /// Units of the recent region.
        recent: usize,
        /// Units of a chunk.
        chunk: usize,
    },
    /// The window must be whole chunks, or the first eviction would label units wrongly.
    #[error(
        "the window of {capacity} units (sink + memory + recent) is not a multiple of the chunk of {chunk}; \
         compat = \"official\" reproduces what the published code does with it"
    )]
    CapacityNotMultiple {
        /// Units of the window.
        capacity: usize,
        /// Units of a chunk.
        chunk: usize,
    },
    /// The published code would count the first evicted units from before the first.
    #[error(
        "compat = \"official\" labels units below 0 when sink + memory = {sink} + {memory} is smaller than the chunk of {chunk}"
    )]
    OfficialLabels {
        /// Units of the sink.
        sink: usize,
        /// Units of memory.
        memory: usize,
        /// Units of a chunk.
        chunk: usize,
    },
    /// An unbounded window has nothing to recall.
    #[error(
        "layout.recent = \"all\" keeps everything, so sink and memory must be 0 (got {sink} and {memory})"
    )]
    UnboundedWithMemory {
        /// Units of the sink.
        sink: usize,
        /// Units of memory.
        memory: usize,
    },
    /// An archive without a memory region to recall into, or with wrong labels.
    #[error("layout.archive needs a memory region and a bounded window of whole chunks")]
    Archive,
    /// An archive that leaves recall nothing to choose from.
    #[error(
        "layout.archive = {archive} must be more than layout.memory = {memory}, whose units it holds too"
    )]
    ArchiveBelowMemory {
        /// Units of the archive.
        archive: usize,
        /// Units of memory.
        memory: usize,
    },
    /// A size that does not fit.
    #[error("layout: {what} overflows")]
    Overflow {
        /// Which size.
        what: &'static str,
    },
    /// More slots are needed than the pool has.
    #[error("{requested} slots requested, {free} free")]
    OutOfSlots {
        /// Slots asked for.
        requested: usize,
        /// Slots free.
        free: usize,
    },
    /// A block that nobody refers to, or that is not there.
    #[error("block {block} is not in use")]
    NoSuchBlock {
        /// The block.
        block: u32,
    },
    /// A selection that is not an ascending list of candidates.
    #[error("a selection must be {limit} or fewer ascending indices below {candidates}")]
    Selection {
        /// Units that fit.
        limit: usize,
        /// Candidates there are.
        candidates: usize,
    },
}
