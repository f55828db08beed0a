//! Operations on tokens, passed on.

use tether_core::{
    AttendOptions, BlockTables, ChosenTokens, CodeFrames, CodeSpec, CoreError, DType, NewQueries,
    ObservedLayer, PageChoice, PageLists, PagedKv, RowLists, ScoreLeaf, ScoreOp, Side, SimilarRows, StandIns,
    TokenEngine, TokenLayout, WindowSpec,
};

use super::super::watch::Bytes;
use super::{Call, Faulty, list};

impl<E: TokenEngine> TokenEngine for Faulty<E> {
    type Indices = E::Indices;
    type Tables = E::Tables;
    type PageTable = E::PageTable;
    type Attention = E::Attention;
    type CodePages = E::CodePages;

    fn upload_indices(&self, shape: &[usize], indices: &[u32]) -> Result<E::Indices, CoreError> {
        self.enter(Call::UploadIndices, Bytes::ToDevice(list(indices)))?;
        self.engine.upload_indices(shape, indices)
    }

    fn read_indices(&self, indices: &E::Indices) -> Result<Vec<u32>, CoreError> {
        // How many there are is known when they are here: the call is counted first, and then what it brought.
        self.enter(Call::ReadIndices, Bytes::None)?;
        let read = self.engine.read_indices(indices)?;
        self.watch.arrived(Call::ReadIndices, list(&read));
        Ok(read)
    }

    fn upload_tables(&self, tables: &BlockTables<'_>) -> Result<E::Tables, CoreError> {
        let bytes = list(tables.indptr) + list(tables.pages) + list(tables.lengths);
        self.enter(Call::UploadTables, Bytes::ToDevice(bytes))?;
        self.engine.upload_tables(tables)
    }

    fn rotate(
        &self,
        x: &mut E::Tensor,
        layout: TokenLayout,
        rotation: &E::Rotation,
    ) -> Result<(), CoreError> {
        self.enter(Call::Rotate, Bytes::None)?;
        self.engine.rotate(x, layout, rotation)
    }

    fn rotated(
        &self,
        x: &E::Tensor,
        layout: TokenLayout,
        rotation: &E::Rotation,
    ) -> Result<E::Tensor, CoreError> {
        self.enter(Call::Rotated, Bytes::None)?;
        self.engine.rotated(x, layout, rotation)
    }

    fn window_scores(&self, q: &E::Tensor, k: &E::Tensor, spec: &WindowSpec) -> Result<E::Tensor, CoreError> {
        self.enter(Call::WindowScores, Bytes::None)?;
        self.engine.window_scores(q, k, spec)
    }

    fn top_k(&self, scores: &E::Tensor, k: usize) -> Result<E::Indices, CoreError> {
        self.enter(Call::TopK, Bytes::None)?;
        self.engine.top_k(scores, k)
    }

    fn gather_rows(
        &self,
        x: &E::Tensor,
        layout: TokenLayout,
        indices: &E::Indices,
    ) -> Result<E::Tensor, CoreError> {
        self.enter(Call::GatherRows, Bytes::None)?;
        self.engine.gather_rows(x, layout, indices)
    }

    fn gather_rows_of_two(
        &self,
        tensors: (&E::Tensor, &E::Tensor),
        layout: TokenLayout,
        indices: &E::Indices,
    ) -> Result<(E::Tensor, E::Tensor), CoreError> {
        self.enter(Call::GatherRows, Bytes::None)?;
        self.engine.gather_rows_of_two(tensors, layout, indices)
    }

    fn gather_pages(&self, pool: &E::Tensor, indices: &E::Indices) -> Result<E::Tensor, CoreError> {
        self.enter(Call::GatherPages, Bytes::None)?;
        self.engine.gather_pages(pool, indices)
    }

    fn gather_pages_of_two(
        &self,
        pools: (&E::Tensor, &E::Tensor),
        indices: &E::Indices,
    ) -> Result<(E::Tensor, E::Tensor), CoreError> {
        self.enter(Call::GatherPages, Bytes::None)?;
        self.engine.gather_pages_of_two(pools, indices)
    }

    fn decode(
        &self,
        q: &E::Tensor,
        k: &E::Tensor,
        v: &E::Tensor,
        tables: &E::Tables,
        scale: f32,
    ) -> Result<(E::Tensor, E::Tensor), CoreError> {
        self.enter(Call::Decode, Bytes::None)?;
        self.engine.decode(q, k, v, tables, scale)
    }

    fn read_rows(&self, pool: &E::Tensor, rows: &E::Indices) -> Result<E::Tensor, CoreError> {
        self.enter(Call::ReadRows, Bytes::None)?;
        self.engine.read_rows(pool, rows)
    }

    fn write_rows(&self, pool: &mut E::Tensor, rows: &E::Indices, x: &E::Tensor) -> Result<(), CoreError> {
        self.enter(Call::WriteRows, Bytes::None)?;
        self.engine.write_rows(pool, rows, x)
    }

    fn write_rows_together(
        &self,
        writes: &mut [(&mut E::Tensor, &E::Tensor)],
        rows: &E::Indices,
    ) -> Result<(), CoreError> {
        self.enter(Call::WriteRows, Bytes::None)?;
        self.engine.write_rows_together(writes, rows)
    }

    fn weighted_rows(
        &self,
        pool: &E::Tensor,
        lists: &RowLists<'_>,
        dtype: DType,
    ) -> Result<E::Tensor, CoreError> {
        let bytes = list(lists.starts) + list(lists.rows) + list(lists.weights);
        self.enter(Call::WeightedRows, Bytes::ToDevice(bytes))?;
        self.engine.weighted_rows(pool, lists, dtype)
    }

    fn joins_similar(&self) -> bool {
        self.engine.joins_similar()
    }

    fn join_similar(&self, rows: &SimilarRows<'_, Self>) -> Result<E::Tensor, CoreError> {
        self.enter(Call::JoinSimilar, Bytes::None)?;
        let &SimilarRows { keys, values, kept, leaving, threshold, most } = rows;
        self.engine.join_similar(&SimilarRows { keys, values, kept, leaving, threshold, most })
    }

    fn attend_stand_ins(
        &self,
        q: &E::Tensor,
        stand_ins: &StandIns<'_, Self>,
        tokens: std::ops::Range<usize>,
        scale: f32,
        results: (&mut E::Tensor, &mut E::Tensor),
    ) -> Result<(), CoreError> {
        self.enter(Call::AttendStandIns, Bytes::None)?;
        let &StandIns { keys, values, biases } = stand_ins;
        self.engine.attend_stand_ins(q, &StandIns { keys, values, biases }, tokens, scale, results)
    }

    fn write_page_bounds(
        &self,
        bounds: &mut E::Tensor,
        keys: &E::Tensor,
        which: &E::Indices,
    ) -> Result<(), CoreError> {
        self.enter(Call::WritePageBounds, Bytes::None)?;
        self.engine.write_page_bounds(bounds, keys, which)
    }

    fn chooses_pages(&self) -> bool {
        self.engine.chooses_pages()
    }

    fn choose_pages(&self, choice: &PageChoice<'_, Self>) -> Result<E::Tables, CoreError> {
        let &PageChoice { q, bounds, table, lists, run, ref between, count } = choice;
        self.enter(Call::ChoosePages, Bytes::ToDevice(list(lists.starts) + list(lists.lengths)))?;
        let between = between.clone();
        self.engine.choose_pages(&PageChoice { q, bounds, table, lists, run, between, count })
    }

    fn add_attention(
        &self,
        sums: &mut E::Tensor,
        queries: &NewQueries<'_, Self>,
        kv: &PagedKv<'_, Self>,
        tables: &E::Tables,
        attention: &E::Attention,
        lse: &E::Tensor,
    ) -> Result<(), CoreError> {
        self.enter(Call::AddAttention, Bytes::ToDevice(list(queries.starts)))?;
        let (queries, kv) = passed(queries, kv);
        self.engine.add_attention(sums, &queries, &kv, tables, attention, lse)
    }

    fn create_page_table(&self, entries: usize) -> Result<E::PageTable, CoreError> {
        self.enter(Call::CreatePageTable, Bytes::None)?;
        self.engine.create_page_table(entries)
    }

    fn grow_page_table(&self, table: &mut E::PageTable, entries: usize) -> Result<(), CoreError> {
        self.enter(Call::GrowPageTable, Bytes::None)?;
        self.engine.grow_page_table(table, entries)
    }

    fn write_page_table(&self, table: &mut E::PageTable, at: &[u32], pages: &[u32]) -> Result<(), CoreError> {
        self.enter(Call::WritePageTable, Bytes::ToDevice(list(at) + list(pages)))?;
        self.engine.write_page_table(table, at, pages)
    }

    fn page_lists(&self, table: &E::PageTable, lists: &PageLists<'_>) -> Result<E::Tables, CoreError> {
        self.enter(Call::PageLists, Bytes::ToDevice(list(lists.starts) + list(lists.lengths)))?;
        self.engine.page_lists(table, lists)
    }

    fn upload_attention(&self, options: &AttendOptions) -> Result<E::Attention, CoreError> {
        self.enter(Call::UploadAttention, Bytes::ToDevice(list(&options.alibi) + list(&options.sinks)))?;
        self.engine.upload_attention(options)
    }

    fn attend_paged(
        &self,
        queries: &NewQueries<'_, Self>,
        kv: &PagedKv<'_, Self>,
        tables: &E::Tables,
        attention: &E::Attention,
    ) -> Result<(E::Tensor, E::Tensor), CoreError> {
        self.enter(Call::AttendPaged, Bytes::ToDevice(list(queries.starts)))?;
        let (queries, kv) = passed(queries, kv);
        self.engine.attend_paged(&queries, &kv, tables, attention)
    }

    fn list_rows(&self, tables: &E::Tables) -> Result<E::Indices, CoreError> {
        self.enter(Call::ListRows, Bytes::None)?;
        self.engine.list_rows(tables)
    }

    fn chosen_rows(
        &self,
        tables: &E::Tables,
        tokens: &ChosenTokens<'_, E::Indices>,
    ) -> Result<E::Indices, CoreError> {
        self.enter(Call::ListRows, Bytes::None)?;
        self.engine.chosen_rows(tables, tokens)
    }

    fn words(&self, indices: &E::Indices) -> Result<E::Tensor, CoreError> {
        self.enter(Call::Words, Bytes::None)?;
        self.engine.words(indices)
    }

    fn indices(&self, words: &E::Tensor, bound: usize) -> Result<E::Indices, CoreError> {
        self.enter(Call::Words, Bytes::None)?;
        self.engine.indices(words, bound)
    }

    fn observes(&self, leaf: &ScoreLeaf) -> bool {
        self.engine.observes(leaf)
    }

    fn observe(&self, leaf: &ScoreLeaf, layer: &ObservedLayer<'_, Self>) -> Result<E::Tensor, CoreError> {
        self.enter(Call::Observe, Bytes::None)?;
        let &ObservedLayer {
            k,
            v,
            sums,
            rows,
            queries,
            probe_keys,
            rotation,
            projection,
            raw_keys,
            grid,
            scale,
        } = layer;
        let inner = ObservedLayer {
            k,
            v,
            sums,
            rows,
            queries,
            probe_keys,
            rotation,
            projection,
            raw_keys,
            grid,
            scale,
        };
        self.engine.observe(leaf, &inner)
    }

    fn score_op(&self, op: &ScoreOp, of: &[&E::Tensor]) -> Result<E::Tensor, CoreError> {
        self.enter(Call::ScoreOp, Bytes::None)?;
        self.engine.score_op(op, of)
    }

    fn create_codes(&self, spec: &CodeSpec) -> Result<E::CodePages, CoreError> {
        self.enter(Call::CreateCodes, Bytes::None)?;
        self.engine.create_codes(spec)
    }

    fn gather_codes(&self, codes: &E::CodePages, pages: &[u32]) -> Result<E::CodePages, CoreError> {
        self.enter(Call::GatherCodes, Bytes::ToDevice(list(pages)))?;
        self.engine.gather_codes(codes, pages)
    }

    fn code_frames(
        &self,
        codes: &E::CodePages,
        side: Side,
        x: &E::Tensor,
    ) -> Result<Option<E::Tensor>, CoreError> {
        self.enter(Call::CodeFrames, Bytes::None)?;
        self.engine.code_frames(codes, side, x)
    }

    fn write_codes(
        &self,
        codes: &mut E::CodePages,
        pages: &[u32],
        rows: [&E::Tensor; 2],
        frames: &CodeFrames<'_, Self>,
    ) -> Result<(), CoreError> {
        self.enter(Call::WriteCodes, Bytes::ToDevice(list(pages)))?;
        self.engine.write_codes(codes, pages, rows, &passed_frames(frames))
    }

    fn copy_code_rows(&self, codes: &mut E::CodePages, from: &[u32], to: &[u32]) -> Result<(), CoreError> {
        self.enter(Call::CopyCodeRows, Bytes::ToDevice(list(from) + list(to)))?;
        self.engine.copy_code_rows(codes, from, to)
    }

    fn restore_codes(
        &self,
        codes: &E::CodePages,
        pages: &[u32],
        frames: &CodeFrames<'_, Self>,
        dtype: DType,
    ) -> Result<[E::Tensor; 2], CoreError> {
        self.enter(Call::RestoreCodes, Bytes::ToDevice(list(pages)))?;
        self.engine.restore_codes(codes, pages, &passed_frames(frames), dtype)
    }

    fn attend_codes(
        &self,
        q: &E::Tensor,
        codes: &E::CodePages,
        frames: &CodeFrames<'_, Self>,
        tables: &E::Tables,
        scale: f32,
    ) -> Result<(E::Tensor, E::Tensor), CoreError> {
        self.enter(Call::AttendCodes, Bytes::None)?;
        self.engine.attend_codes(q, codes, &passed_frames(frames), tables, scale)
    }

    fn merge_attention(
        &self,
        one: (&E::Tensor, &E::Tensor),
        other: (&E::Tensor, &E::Tensor),
    ) -> Result<(E::Tensor, E::Tensor), CoreError> {
        self.enter(Call::MergeAttention, Bytes::None)?;
        self.engine.merge_attention(one, other)
    }
}

/// The same frames, as the engine's own.
fn passed_frames<'a, E: TokenEngine>(frames: &CodeFrames<'a, Faulty<E>>) -> CodeFrames<'a, E> {
    CodeFrames { keys: frames.keys, values: frames.values }
}

/// The same arguments, as the engine's own.
fn passed<'a, E: TokenEngine>(
    queries: &NewQueries<'a, Faulty<E>>,
    kv: &PagedKv<'a, Faulty<E>>,
) -> (NewQueries<'a, E>, PagedKv<'a, E>) {
    let &NewQueries { q, starts, positions } = queries;
    (NewQueries { q, starts, positions }, PagedKv { k: kv.k, v: kv.v, positions: kv.positions })
}
