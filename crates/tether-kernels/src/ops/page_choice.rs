//! Bounds of pages, and a choice among pages by them.

use cubecl::prelude::*;
use tether_core::{CoreError, DType, PageChoice, PageLists, TokenEngine, check_bounds};

use crate::cube::launch::{array, flat_by, spread, whole_planes, with_storage};
use crate::kernels::page_choice::{self, LANES, THREADS};
use crate::{Cube, CubeIndices, CubeTables, CubeTensor};

impl<R: Runtime> Cube<R> {
    /// Writes bounds of parts of pages.
    pub(crate) fn write_bounds(
        &self,
        bounds: &CubeTensor,
        keys: &CubeTensor,
        parts: &CubeIndices,
    ) -> Result<(), CoreError> {
        let size = check_bounds((&keys.shape, keys.dtype), (&bounds.shape, bounds.dtype))?;
        let (all, dim) = (bounds.shape[0] * bounds.shape[1], keys.shape[3]);
        if parts.len() > 0 && parts.bound > all {
            return Err(CoreError::Count { what: "parts of pages", expected: parts.bound, got: all });
        }
        self.require(keys.dtype)?;
        if parts.len() * size * dim == 0 {
            return Ok(());
        }
        let (count, threads) = flat_by(parts.len() * dim, THREADS);
        #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
        // SAFETY: the kernel stops at `dim` channels of each part that is named, which the pool and its bounds have
        // (checked).
        unsafe {
            with_storage!(keys.dtype, F => page_choice::write_bounds::launch_unchecked::<F, R>(
                self.client(), count, threads, array(&keys.handle, keys.len()),
                array(&parts.handle, parts.len()), array(&bounds.handle, bounds.len()), parts.len() as u32,
                size as u32, dim as u32,
            ));
        }
        Ok(())
    }

    /// Lists of the pages that a token chooses.
    pub(crate) fn chosen(&self, choice: &PageChoice<'_, Self>) -> Result<CubeTables, CoreError> {
        let (q, bounds, lists) = (choice.q, choice.bounds, choice.lists);
        let problem = choice.check((&q.shape, q.dtype), (&bounds.shape, bounds.dtype))?;
        // The table of all lists, which checks that they lie within it.
        let all = self.page_lists(choice.table, lists)?;
        if all.page_bound > bounds.shape[0] {
            let (expected, got) = (all.page_bound, bounds.shape[0]);
            return Err(CoreError::Count { what: "bounds of pages", expected, got });
        }
        self.require(q.dtype)?;
        if problem.kv_heads > 65_535 {
            return Err(CoreError::Unsupported {
                engine: R::name(self.client()),
                feature: "more than 65535 heads",
            });
        }
        let scores = self.tensor(&[problem.kv_heads, problem.candidates], DType::F32)?;
        let client = self.client();
        let (run, first) = (choice.run as u32, (choice.between.start * choice.run) as u32);
        let (starts, pages) =
            (|| array(&all.indptr, all.indptr_len), || array(&all.pages, all.pages_len.max(1)));
        // All of them or none of them: which are best does not matter.
        let asked = choice.count > 0 && choice.count < problem.candidates;
        if asked {
            let (x, y) = spread(problem.candidates.div_ceil((THREADS / LANES) as usize));
            let plane = whole_planes(client, THREADS);
            #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
            // SAFETY: the kernel stops at `candidates` runs, whose pages are entries of the lists (checked) and below the bound of the table's pages, which have bounds (checked).
            unsafe {
                with_storage!(q.dtype, F => page_choice::bound_scores::launch_unchecked::<F, R>(
                    client, CubeCount::Static(x, y, problem.kv_heads as u32), CubeDim::new_1d(THREADS),
                    array(&q.handle, q.len()), array(&bounds.handle, bounds.len()), starts(), pages(),
                    array(&scores.handle, scores.len()), problem.candidates as u32, first, run,
                    problem.group as u32, problem.dim as u32, plane,
                ));
            }
        }
        let chosen = if asked {
            self.top_k(&scores, choice.count)?
        } else {
            let all: Vec<u32> = (0..problem.kv_heads).flat_map(|_| 0..choice.count as u32).collect();
            self.upload_indices(&[problem.kv_heads, choice.count], &all)?
        };
        let entries = problem.kv_heads * problem.pages;
        let made = self.tensor(&[entries.max(1)], DType::F32)?;
        if entries > 0 {
            let (count, threads) = flat_by(entries, THREADS);
            #[allow(unsafe_code, reason = "bounds checks in the kernel instead of at every access")]
            // SAFETY: the kernel stops at `entries` entries; what was chosen are runs below `candidates`, and the pages around them are entries of the lists.
            unsafe {
                page_choice::chosen_pages::launch_unchecked::<R>(
                    client,
                    count,
                    threads,
                    starts(),
                    pages(),
                    array(&chosen.handle, chosen.len().max(1)),
                    array(&made.handle, entries),
                    problem.kv_heads as u32,
                    problem.pages as u32,
                    first,
                    (choice.between.end * choice.run) as u32,
                    run,
                    choice.count as u32,
                );
            }
        }
        let starts: Vec<u32> = (0..problem.kv_heads).map(|head| (head * problem.pages) as u32).collect();
        let lengths = vec![problem.tokens as u32; problem.kv_heads];
        let lists = PageLists { starts: &starts, lengths: &lengths, ..*lists };
        let pages = (made.handle, entries.max(1), all.page_bound);
        Ok(self.lists(pages, &lists))
    }
}
