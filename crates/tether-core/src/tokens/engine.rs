//! The `TokenEngine` trait.

use std::fmt::Debug;

use super::{
    AttendOptions, BlockTables, ChosenTokens, CodeFrames, CodeSpec, NewQueries, ObservedLayer, PageChoice,
    PageLists, PagedKv, RowLists, ScoreLeaf, ScoreOp, SimilarRows, StandIns, TokenLayout, WindowSpec,
};
use crate::{CoreError, DType, Engine, Side};

/// Operations on single tokens, heads and pages.
///
/// As in [`Engine`], a method checks its arguments, queues its work and returns; one that returns an error has queued nothing.
/// Indices that an engine made itself are trusted; those that came from [`TokenEngine::upload_indices`] are checked against what they
/// index by their bound.
pub trait TokenEngine: Engine {
    /// Row, page or token numbers on the device.
    type Indices: Debug;
    /// Lists of pages: uploaded [`BlockTables`], or [`PageLists`] of a table that is there.
    type Tables: Debug;
    /// A page table that stays on the device and is written in place.
    type PageTable: Debug;
    /// Uploaded [`AttendOptions`].
    type Attention: Debug;
    /// Pages of codes.
    type CodePages: Debug;

    /// Copies indices of shape `shape` to the device.
    ///
    /// # Errors
    /// [`CoreError::TensorLength`], [`CoreError::Device`].
    fn upload_indices(&self, shape: &[usize], indices: &[u32]) -> Result<Self::Indices, CoreError>;

    /// Copies indices to the host, and waits for them.
    ///
    /// # Errors
    /// [`CoreError::Device`].
    fn read_indices(&self, indices: &Self::Indices) -> Result<Vec<u32>, CoreError>;

    /// Copies block tables to the device.
    ///
    /// # Errors
    /// Those of [`BlockTables::check`], [`CoreError::Device`].
    fn upload_tables(&self, tables: &BlockTables<'_>) -> Result<Self::Tables, CoreError>;

    /// Rotates `x` in place. Channels outside the rotation are not touched.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`] and those of [`super::RotationExtents::fit`].
    fn rotate(
        &self,
        x: &mut Self::Tensor,
        layout: TokenLayout,
        rotation: &Self::Rotation,
    ) -> Result<(), CoreError>;

    /// A rotated copy of `x`, which stays as it is.
    ///
    /// # Errors
    /// As [`TokenEngine::rotate`].
    fn rotated(
        &self,
        x: &Self::Tensor,
        layout: TokenLayout,
        rotation: &Self::Rotation,
    ) -> Result<Self::Tensor, CoreError>;

    /// Attention that each token before the window gets from the window's queries, `f32` `[kv_heads, tokens - window]`: the softmax of each
    /// query over all tokens that it sees, its mean over the window's queries, smoothed per query head, then the mean over the group's query
    /// heads. `q` is `[query_heads, window, head_dim]`, `k` `[kv_heads, tokens, head_dim]`, both rotated, of one dtype.
    ///
    /// # Errors
    /// Those of [`super::WindowProblem::new`], [`CoreError::DTypeMismatch`].
    fn window_scores(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        spec: &WindowSpec,
    ) -> Result<Self::Tensor, CoreError>;

    /// The `k` largest of each row of `scores` (`f32` `[rows, columns]`), as `[rows, k]` column numbers in ascending order. Of equal scores the
    /// lower column wins; -0 equals 0; NaN is lower than every number.
    ///
    /// # Errors
    /// Those of [`super::TopKProblem::new`]. An engine that sees NaN without waiting returns [`CoreError::NonFinite`].
    fn top_k(&self, scores: &Self::Tensor, k: usize) -> Result<Self::Indices, CoreError>;

    /// Rows `indices[head, i]` of each head, next to each other: `[kept, heads, head_dim]` or `[heads, kept, head_dim]`, as `x` is laid out.
    ///
    /// # Errors
    /// Those of [`super::RowProblem::new`], [`CoreError::Count`] for an index outside `x`.
    fn gather_rows(
        &self,
        x: &Self::Tensor,
        layout: TokenLayout,
        indices: &Self::Indices,
    ) -> Result<Self::Tensor, CoreError>;

    /// [`TokenEngine::gather_rows`] of two tensors by the same indices, such as keys and values; engines with launches to save make it one.
    ///
    /// # Errors
    /// As [`TokenEngine::gather_rows`].
    fn gather_rows_of_two(
        &self,
        (x, y): (&Self::Tensor, &Self::Tensor),
        layout: TokenLayout,
        indices: &Self::Indices,
    ) -> Result<(Self::Tensor, Self::Tensor), CoreError> {
        Ok((self.gather_rows(x, layout, indices)?, self.gather_rows(y, layout, indices)?))
    }

    /// Pages `indices[i]` of a pool `[pages, ..]`, next to each other: `[kept, ..]`.
    ///
    /// # Errors
    /// Those of [`super::PageProblem::new`], [`CoreError::Count`] for an index outside the pool.
    fn gather_pages(&self, pool: &Self::Tensor, indices: &Self::Indices) -> Result<Self::Tensor, CoreError>;

    /// [`TokenEngine::gather_pages`] of two pools by the same indices, such as keys and values; engines with launches to save make it one.
    ///
    /// # Errors
    /// As [`TokenEngine::gather_pages`].
    fn gather_pages_of_two(
        &self,
        (x, y): (&Self::Tensor, &Self::Tensor),
        indices: &Self::Indices,
    ) -> Result<(Self::Tensor, Self::Tensor), CoreError> {
        Ok((self.gather_pages(x, indices)?, self.gather_pages(y, indices)?))
    }

    /// Attention of one query token per sequence, `q` `[sequences, query_heads, head_dim_k]`, over paged keys and values, scaled by `scale`.
    /// Returns the output `[sequences, query_heads, head_dim_v]` in `q`'s dtype and the log-sum-exp (natural logarithm, of the scaled
    /// logits) `f32` `[sequences, query_heads]`, with which partial results merge. A list without tokens gives 0 and [`super::EMPTY_LSE`].
    ///
    /// # Errors
    /// Those of [`super::DecodeProblem::new`], [`CoreError::DTypeMismatch`].
    fn decode(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        tables: &Self::Tables,
        scale: f32,
    ) -> Result<(Self::Tensor, Self::Tensor), CoreError>;

    /// Rows `rows[..]` of a pool whose last axis is a row: of the shape of `rows`, and then a row.
    ///
    /// # Errors
    /// Those of [`super::PoolRows::new`], [`CoreError::Count`] for a row outside the pool.
    fn read_rows(&self, pool: &Self::Tensor, rows: &Self::Indices) -> Result<Self::Tensor, CoreError>;

    /// Writes the rows of `x`, in order, to rows `rows[..]` of a pool whose last axis is a row. The rows must differ from each other.
    ///
    /// # Errors
    /// Those of [`super::PoolRows::new`] and [`super::PoolRows::holds`], [`CoreError::Count`] for a row outside the pool,
    /// [`CoreError::DTypeMismatch`].
    fn write_rows(
        &self,
        pool: &mut Self::Tensor,
        rows: &Self::Indices,
        x: &Self::Tensor,
    ) -> Result<(), CoreError>;

    /// [`TokenEngine::write_rows`] of several tensors, each to the same rows of a pool of its own, such as keys and values; engines with launches to
    /// save make it one. Where one does not fit, nothing is written to any.
    ///
    /// # Errors
    /// As [`TokenEngine::write_rows`].
    fn write_rows_together(
        &self,
        writes: &mut [(&mut Self::Tensor, &Self::Tensor)],
        rows: &Self::Indices,
    ) -> Result<(), CoreError>;

    /// Weighted means of rows of a pool whose last axis is a row, in `dtype`: `[lists, row]`. The mean of a list whose weights sum to 0 is 0.
    ///
    /// # Errors
    /// Those of [`super::PoolRows::new`] and [`RowLists::check`].
    fn weighted_rows(
        &self,
        pool: &Self::Tensor,
        lists: &RowLists<'_>,
        dtype: DType,
    ) -> Result<Self::Tensor, CoreError>;

    /// Whether [`TokenEngine::join_similar`] works on the device. Whoever is told that it does not reads the rows,
    /// and finds out on the host which join which: on the host that is no loss.
    fn joins_similar(&self) -> bool {
        false
    }

    /// Values of the rows that stay, in the order of their numbers, with those of the rows that leave: `[kept, row]`
    /// in their dtype.
    ///
    /// # Errors
    /// Those of [`SimilarRows::check`] and [`super::PoolRows::new`], [`CoreError::Count`] for a row outside the pool,
    /// [`CoreError::Unsupported`].
    fn join_similar(&self, _rows: &SimilarRows<'_, Self>) -> Result<Self::Tensor, CoreError> {
        Err(CoreError::Unsupported { engine: self.name(), feature: "rows that join those like them" })
    }

    /// Merges attention to stand-ins into what queries `q`, `[tokens, query_heads, head_dim_k]`, attended to before, an output and its log-sum-exps as
    /// [`TokenEngine::attend_paged`] returns them: of the tokens `tokens` alone.
    ///
    /// # Errors
    /// Those of [`super::StandInProblem::new`], [`CoreError::DTypeMismatch`].
    fn attend_stand_ins(
        &self,
        q: &Self::Tensor,
        stand_ins: &StandIns<'_, Self>,
        tokens: std::ops::Range<usize>,
        scale: f32,
        results: (&mut Self::Tensor, &mut Self::Tensor),
    ) -> Result<(), CoreError>;

    /// Writes the lowest and the highest number of each channel of parts of the pages of `keys`, `[pages, page_size,
    /// 1, head_dim]`, to `bounds`, `[pages, parts, 2, head_dim]`: of the parts `which`, counted through the pages,
    /// which differ from each other.
    ///
    /// # Errors
    /// Those of [`super::check_bounds`], [`CoreError::Count`] for a part outside the pool.
    fn write_page_bounds(
        &self,
        bounds: &mut Self::Tensor,
        keys: &Self::Tensor,
        which: &Self::Indices,
    ) -> Result<(), CoreError>;

    /// Adds the attention that tokens get from a batch of new ones, which [`TokenEngine::attend_paged`] has attended with to the log-sum-exps `lse`, to
    /// what they had: `sums` is `f32` `[pages, page_size, page_heads, group]`, a number for each row of the pools and each query head of the group. Rows of
    /// the new tokens begin at 0, whatever they held.
    ///
    /// # Errors
    /// As [`TokenEngine::attend_paged`]; [`CoreError::ShapeMismatch`] for sums that are not those of the pools.
    fn add_attention(
        &self,
        sums: &mut Self::Tensor,
        queries: &NewQueries<'_, Self>,
        kv: &PagedKv<'_, Self>,
        tables: &Self::Tables,
        attention: &Self::Attention,
        lse: &Self::Tensor,
    ) -> Result<(), CoreError>;

    /// A page table of `entries` entries, which point nowhere yet.
    ///
    /// # Errors
    /// [`CoreError::Device`] when there is no room.
    fn create_page_table(&self, entries: usize) -> Result<Self::PageTable, CoreError>;

    /// Enlarges a page table to `entries` entries; what was written stays.
    ///
    /// # Errors
    /// As [`TokenEngine::create_page_table`]; the table is as it was.
    fn grow_page_table(&self, table: &mut Self::PageTable, entries: usize) -> Result<(), CoreError>;

    /// Writes pages to entries `at` of a table. Lists that were made of it before read them from then on.
    ///
    /// # Errors
    /// Those of [`super::check_entries`], [`CoreError::Device`].
    fn write_page_table(
        &self,
        table: &mut Self::PageTable,
        at: &[u32],
        pages: &[u32],
    ) -> Result<(), CoreError>;

    /// Lists of a page table: what travels is where each begins and how long it is, and not its pages.
    ///
    /// # Errors
    /// Those of [`PageLists::check`], [`CoreError::Device`].
    fn page_lists(&self, table: &Self::PageTable, lists: &PageLists<'_>) -> Result<Self::Tables, CoreError>;

    /// Copies options to the device.
    ///
    /// # Errors
    /// Those of [`AttendOptions::validate`], [`CoreError::Unsupported`] for options that the engine has no kernels for.
    fn upload_attention(&self, options: &AttendOptions) -> Result<Self::Attention, CoreError>;

    /// Attention of new tokens of any number of sequences over their pages, which hold those tokens too, as the last ones of each list: none
    /// sees a token after its own. Results are as those of [`TokenEngine::decode`] with a sequence for each token: output
    /// `[tokens, query_heads, head_dim_v]` in `q`'s dtype, log-sum-exp `f32` `[tokens, query_heads]`. Where a window leaves a query nothing, they are
    /// those of a list without tokens; where there are sinks as well, they alone are what the log-sum-exp counts.
    ///
    /// # Errors
    /// Those of [`super::check_starts`], [`super::check_lengths`], [`super::check_positions`], [`super::batch_problem`] and
    /// [`AttendOptions::fit`], [`CoreError::DTypeMismatch`].
    fn attend_paged(
        &self,
        queries: &NewQueries<'_, Self>,
        kv: &PagedKv<'_, Self>,
        tables: &Self::Tables,
        attention: &Self::Attention,
    ) -> Result<(Self::Tensor, Self::Tensor), CoreError>;

    /// Rows of the pools in the order of the lists, which are equally long and as many as key heads: `[lists, tokens]`. Pages hold one head each.
    ///
    /// # Errors
    /// [`CoreError::Count`] for lists of unequal length.
    fn list_rows(&self, tables: &Self::Tables) -> Result<Self::Indices, CoreError>;

    /// [`TokenEngine::list_rows`] of some tokens of each list: `[lists, first + n + last]`.
    ///
    /// # Errors
    /// [`CoreError::Count`] for lists of unequal length, and of fewer tokens than are asked for; [`CoreError::ShapeMismatch`].
    fn chosen_rows(
        &self,
        tables: &Self::Tables,
        tokens: &ChosenTokens<'_, Self::Indices>,
    ) -> Result<Self::Indices, CoreError>;

    /// Numbers as an `f32` tensor of their 32-bit words, of the same shape, so that they are read with other results. The tensor is read and not written to: it
    /// may be the memory of the numbers.
    ///
    /// # Errors
    /// [`CoreError::Device`].
    fn words(&self, indices: &Self::Indices) -> Result<Self::Tensor, CoreError>;

    /// Numbers of a tensor of 32-bit words, as [`TokenEngine::words`] makes them, none of which is `bound` or more.
    ///
    /// # Errors
    /// [`CoreError::DTypeMismatch`] for a tensor that is not `f32`.
    fn indices(&self, words: &Self::Tensor, bound: usize) -> Result<Self::Indices, CoreError>;

    /// Whether [`TokenEngine::choose_pages`] chooses on the device. Whoever is told that it does not reads the bounds and chooses on the host: on the host that
    /// is no loss.
    fn chooses_pages(&self) -> bool {
        false
    }

    /// Lists of the pages that a token chooses to read: of each key head the runs with the largest bounds of the token's logits, the sum over
    /// channels of `max(q low, q high)` and over the head's query heads (Quest, arXiv:2406.10774), and those that are read anyway, in their order. Of
    /// equal ones the lower run wins. Nothing is waited for.
    ///
    /// # Errors
    /// Those of [`PageChoice::check`] and [`PageLists::check`], [`CoreError::Unsupported`] for an engine that does not choose.
    fn choose_pages(&self, _choice: &PageChoice<'_, Self>) -> Result<Self::Tables, CoreError> {
        Err(CoreError::Unsupported { engine: self.name(), feature: "a choice of pages" })
    }

    /// Whether [`TokenEngine::observe`] works this out on the device. Whoever is told that it does not reads what the leaf is made of, and works it out on the
    /// host: on the host that is no loss.
    fn observes(&self, _leaf: &ScoreLeaf) -> bool {
        false
    }

    /// Works a leaf out: `f32` `[kv_heads, columns]`, columns as [`ScoreLeaf::columns`] has them.
    ///
    /// # Errors
    /// Those of [`super::LeafProblem::new`], [`CoreError::Unsupported`] for what [`TokenEngine::observes`] denies.
    fn observe(&self, leaf: &ScoreLeaf, _layer: &ObservedLayer<'_, Self>) -> Result<Self::Tensor, CoreError> {
        let feature = match leaf {
            ScoreLeaf::WindowAttention { .. } => "window attention over pages",
            ScoreLeaf::AttentionSums => "sums of attention",
            ScoreLeaf::KeyNorm | ScoreLeaf::ValueNorm => "norms of rows",
            ScoreLeaf::KeyMeanCosine => "cosines with the mean key",
            ScoreLeaf::MeanLogit { .. } => "mean logits",
            ScoreLeaf::SampledAttention { .. } => "attention of sampled queries",
            ScoreLeaf::LargestAttention { .. } => "attention of the largest logits",
            ScoreLeaf::SpanAttention { .. } => "attention to spans",
            ScoreLeaf::ProbeAttention { .. } => "attention of probes",
            ScoreLeaf::KeyRedundancy { .. } => "likeness of keys",
            ScoreLeaf::ExpectedAttention { .. } => "expected attention",
            ScoreLeaf::ProjectedValueNorm => "norms under an output projection",
            ScoreLeaf::KeySpread { .. } | ScoreLeaf::ValueSpread { .. } => "spreads over channels",
            ScoreLeaf::FrameSaliency | ScoreLeaf::FrameGate { .. } => "likeness in frames",
            ScoreLeaf::BlockMeanLogit { .. } => "mean logits of blocks",
        };
        Err(CoreError::Unsupported { engine: self.name(), feature })
    }

    /// Makes something of scores, `f32` `[heads, columns]` each. What is made of a number that is not finite need not be one that is none: [`ScoreOp::Finite`] finds those.
    ///
    /// # Errors
    /// Those of [`ScoreOp::shape`], [`CoreError::DTypeMismatch`].
    fn score_op(&self, op: &ScoreOp, of: &[&Self::Tensor]) -> Result<Self::Tensor, CoreError>;

    /// Pages of codes, which hold nothing yet.
    ///
    /// # Errors
    /// Those of [`CodeSpec::validate`], [`CoreError::Unsupported`] for codecs that the engine has no form for,
    /// [`CoreError::Device`] when there is no room.
    fn create_codes(&self, spec: &CodeSpec) -> Result<Self::CodePages, CoreError>;

    /// Pages `pages[i]` of codes, next to each other.
    ///
    /// # Errors
    /// [`CoreError::Count`] for a page that is not there, [`CoreError::Device`] when there is no room.
    fn gather_codes(&self, codes: &Self::CodePages, pages: &[u32]) -> Result<Self::CodePages, CoreError>;

    /// What codes of rows like `x` `[rows, n, head_dim]` are relative to, `f32` `[n, frame_len]`; `None` where codes of
    /// that side carry all that they need. A codec whose directions are trained reads the rows.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`]; [`CoreError::NonFinite`] from engines that see it without waiting.
    fn code_frames(
        &self,
        codes: &Self::CodePages,
        side: Side,
        x: &Self::Tensor,
    ) -> Result<Option<Self::Tensor>, CoreError>;

    /// Codes keys and values `[page_size, n, head_dim]` into pages `pages[..]`, which differ from each other; frame `i`
    /// is that of the `i`-th of them.
    ///
    /// # Errors
    /// Those of [`CodeSpec::check_rows`] and [`CodeSpec::check_frame`], [`CoreError::Count`] for a page that is not
    /// there, [`CoreError::NonFinite`] from engines that see it without waiting, of a number or of what it is coded to.
    fn write_codes(
        &self,
        codes: &mut Self::CodePages,
        pages: &[u32],
        rows: [&Self::Tensor; 2],
        frames: &CodeFrames<'_, Self>,
    ) -> Result<(), CoreError>;

    /// Copies the codes of rows `from[i]` to rows `to[i]`, of keys and of values. No row is written twice, or read
    /// after it was written.
    ///
    /// # Errors
    /// [`CoreError::Count`] for rows that are not there, [`CoreError::Unsupported`] for codes that are not by row.
    fn copy_code_rows(&self, codes: &mut Self::CodePages, from: &[u32], to: &[u32]) -> Result<(), CoreError>;

    /// The keys and values that codes of pages stand for, `[page_size, n, head_dim]`; frame `i` is that of the `i`-th
    /// page.
    ///
    /// # Errors
    /// [`CoreError::Count`] for a page that is not there, those of [`CodeSpec::check_frame`],
    /// [`CoreError::Unsupported`] for a dtype that the device lacks.
    fn restore_codes(
        &self,
        codes: &Self::CodePages,
        pages: &[u32],
        frames: &CodeFrames<'_, Self>,
        dtype: DType,
    ) -> Result<[Self::Tensor; 2], CoreError>;

    /// [`TokenEngine::decode`] over pages of codes, whose lists are of one group for each key head; a frame for each.
    ///
    /// # Errors
    /// Those of [`TokenEngine::decode`] and [`CodeSpec::check_frame`].
    fn attend_codes(
        &self,
        q: &Self::Tensor,
        codes: &Self::CodePages,
        frames: &CodeFrames<'_, Self>,
        tables: &Self::Tables,
        scale: f32,
    ) -> Result<(Self::Tensor, Self::Tensor), CoreError>;

    /// Attention of the same queries to two sets of tokens, as attention to both: outputs `[.., head_dim]` of one dtype
    /// and log-sum-exps `f32` `[..]`.
    ///
    /// # Errors
    /// [`CoreError::ShapeMismatch`], [`CoreError::DTypeMismatch`].
    fn merge_attention(
        &self,
        one: (&Self::Tensor, &Self::Tensor),
        other: (&Self::Tensor, &Self::Tensor),
    ) -> Result<(Self::Tensor, Self::Tensor), CoreError>;
}
