//! Attention of a batch of new tokens: pieces of prompts by the kernels for blocks of queries, single tokens by those for one query a sequence.

use cubecl::prelude::*;
use tether_core::{
    CausalLists, CoreError, DecodeProblem, NewQueries, PageLists, PageProblem, PoolRows, TokenEngine,
};

use super::{Cube, CubeTables, CubeTensor};
use crate::ops::attend::{self, Attention, Kernel, QueryList, Rows};
use crate::ops::decode::{Asked, Stored};
use crate::ops::gather;

impl<R: Runtime> Cube<R> {
    /// Output and log-sum-exp of a batch whose arguments fit each other; each token is a sequence of `problem`.
    pub(super) fn attend_batch(
        &self,
        asked: &Asked<'_>,
        queries: &NewQueries<'_, Self>,
        (k, v): (&CubeTensor, &CubeTensor),
    ) -> Result<(CubeTensor, CubeTensor), CoreError> {
        let &Asked { problem, tables, q, scale, .. } = asked;
        // The kernels for blocks take a scale and nothing else.
        let kernel = match asked.shaping {
            None => Kernel::of(&self.client, q.dtype, (problem.head_dim_k, problem.head_dim_v)),
            Some(_) => None,
        };
        let tokens = |sequence: usize| (queries.starts[sequence + 1] - queries.starts[sequence]) as usize;
        let (blocks, singles): (Vec<usize>, Vec<usize>) = (0..tables.sequences)
            .partition(|&sequence| kernel.is_some_and(|k| k.suits(tokens(sequence), problem.group)));
        let stored = Stored::Numbers { k, v };
        let Some(kernel) = kernel.filter(|_| !blocks.is_empty()) else {
            if problem.sequences == tables.sequences {
                return self.decode_stored(asked, &stored);
            }
            let lists = self.causal(queries.starts, tables, &singles);
            return self.decode_stored(&Asked { tables: &lists, ..*asked }, &stored);
        };

        self.require(q.dtype)?;
        let heads = problem.query_heads();
        let mut out = self.tensor(&[problem.sequences, heads, problem.head_dim_v], q.dtype)?;
        let mut lse = self.tensor(&[problem.sequences, heads], tether_core::DType::F32)?;
        if out.len() == 0 {
            return Ok((out, lse));
        }
        let lists = query_lists(queries.starts, tables, &blocks, problem);
        let pages = (&tables.pages, tables.pages_len);
        let attention = Attention {
            dtype: q.dtype,
            head_dims: (problem.head_dim_k, problem.head_dim_v),
            query_heads: heads,
            group: problem.group,
            page_size: problem.page_size,
            page_heads: problem.page_heads,
            lists: &lists,
            keys: (&k.handle, k.len()),
            values: (&v.handle, v.len()),
            key_pages: pages,
            value_pages: pages,
        };
        let rows = Rows::Stored {
            q: (&q.handle, q.len()),
            scale,
            out: (&out.handle, out.len()),
            lse: (&lse.handle, lse.len()),
        };
        attend::launch(&self.client, kernel, &attention, rows);
        if !singles.is_empty() {
            self.attend_singles(asked, queries, &stored, &singles, (&mut out, &mut lse))?;
        }
        Ok((out, lse))
    }

    /// The tokens of some of a batch's sequences, each for itself, into what is there for all.
    fn attend_singles(
        &self,
        asked: &Asked<'_>,
        queries: &NewQueries<'_, Self>,
        stored: &Stored<'_>,
        singles: &[usize],
        (out, lse): (&mut CubeTensor, &mut CubeTensor),
    ) -> Result<(), CoreError> {
        let &Asked { problem, tables, .. } = asked;
        let starts = queries.starts;
        let tokens: Vec<u32> = singles.iter().flat_map(|&s| starts[s]..starts[s + 1]).collect();
        let indices = self.upload_indices(&[tokens.len()], &tokens)?;
        let (heads, kept) = (problem.query_heads(), tokens.len());
        let q = self.tensor(&[kept, heads, problem.head_dim_k], queries.q.dtype)?;
        let pages = PageProblem { pages: problem.sequences, page_len: heads * problem.head_dim_k, kept };
        gather::launch_pages(&self.client, &pages, (queries.q, &q), None, &indices);
        let part = DecodeProblem { sequences: kept, ..*problem };
        let lists = self.causal(starts, tables, singles);
        let asked = Asked { problem: &part, tables: &lists, q: &q, ..*asked };
        let (some, some_lse) = self.decode_stored(&asked, stored)?;
        for (from, into, row) in [(&some, out, heads * problem.head_dim_v), (&some_lse, lse, heads)] {
            let rows = PoolRows::new(&[problem.sequences, row], &[kept])?;
            gather::launch_scatter(&self.client, &rows, (from, into), None, &indices);
        }
        Ok(())
    }

    /// The lists of some sequences of a batch, one for each of their tokens.
    fn causal(&self, starts: &[u32], tables: &CubeTables, sequences: &[usize]) -> CubeTables {
        let mut batch = vec![0];
        for &s in sequences {
            batch.push(batch[batch.len() - 1] + starts[s + 1] - starts[s]);
        }
        let of = |all: &[u32]| -> Vec<u32> {
            let groups = all.chunks_exact(tables.sequences);
            groups.flat_map(|group| sequences.iter().map(|&s| group[s])).collect()
        };
        let (begins, lengths) = (of(&tables.lists.0), of(&tables.lists.1));
        let causal = CausalLists::new(&batch, tables.groups, (&begins, &lengths));
        let lists = PageLists {
            page_size: tables.page_size,
            groups: tables.groups,
            starts: &causal.starts,
            lengths: &causal.lengths,
        };
        self.lists((tables.pages.clone(), tables.pages_len, tables.page_bound), &lists)
    }
}

/// A list for each key head of some sequences of a batch.
fn query_lists(
    starts: &[u32],
    tables: &CubeTables,
    sequences: &[usize],
    problem: &DecodeProblem,
) -> Vec<QueryList> {
    let of_head = |kv_head: usize| {
        sequences.iter().map(move |&sequence| {
            let list = kv_head / problem.page_heads * tables.sequences + sequence;
            let (tokens, length) = (starts[sequence + 1] - starts[sequence], tables.lists.1[list]);
            QueryList {
                first_page: tables.lists.0[list],
                first_token: starts[sequence],
                tokens,
                kv_head: kv_head as u32,
                seen: length - tokens + 1,
                length,
            }
        })
    };
    (0..problem.kv_heads).flat_map(of_head).collect()
}
