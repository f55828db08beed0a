//! Queries of the last tokens of a layer, as far as the recipe looks back. They stay where they are: what is kept are the tensors that they came in.

use std::collections::VecDeque;
use std::ops::Range;

use tether_core::{CoreError, HostTensor, Readback, TokenEngine};

/// Tokens whose queries are kept beyond those that are asked for, so that as many of the newest can be taken back.
pub(super) const DRAFTS: usize = 32;

/// Queries of a run of tokens: those from token `first` on of a tensor `[tokens, query_heads, head_dim]`, which may hold other sequences' too.
#[derive(Clone, Debug)]
pub(super) struct Piece<T> {
    tensor: T,
    first: usize,
    tokens: usize,
}

/// Queries of the last tokens, one piece of a text after the other.
#[derive(Clone, Debug)]
pub(super) struct QueryTail<T> {
    pieces: VecDeque<Piece<T>>,
    tokens: usize,
}

impl<T> Default for QueryTail<T> {
    fn default() -> Self {
        Self { pieces: VecDeque::new(), tokens: 0 }
    }
}

/// What was recorded of one layer of one sequence.
#[derive(Clone, Debug)]
pub(super) struct Recorded<T> {
    /// Rotated.
    pub queries: QueryTail<T>,
    /// Before the rotation.
    pub raw_queries: QueryTail<T>,
}

impl<T> Default for Recorded<T> {
    fn default() -> Self {
        Self { queries: QueryTail::default(), raw_queries: QueryTail::default() }
    }
}

impl<T: Clone> QueryTail<T> {
    /// Tokens whose queries there are.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// What the tokens `of` of a batch leave behind when the last `keep` are asked for; nothing has changed yet.
    pub(super) fn piece<E: TokenEngine<Tensor = T>>(
        engine: &E,
        q: &T,
        of: Range<usize>,
        keep: usize,
    ) -> Result<Option<Piece<T>>, CoreError> {
        if keep == 0 {
            return Ok(None);
        }
        // A long piece of which little is asked for is not held whole.
        let keep = keep.saturating_add(DRAFTS);
        if of.len() <= keep.saturating_mul(2) {
            return Ok(Some(Piece { tensor: q.clone(), first: of.start, tokens: of.len() }));
        }
        let heads = engine.describe(q).0[1];
        let rows: Vec<u32> = ((of.end - keep) * heads..of.end * heads).map(|row| row as u32).collect();
        let rows = engine.upload_indices(&[keep, heads], &rows)?;
        Ok(Some(Piece { tensor: engine.read_rows(q, &rows)?, first: 0, tokens: keep }))
    }

    /// Adds a piece, and forgets those that are not among the last `keep` tokens, or drafts beside them.
    pub(super) fn push(&mut self, piece: Option<Piece<T>>, keep: usize) {
        let Some(piece) = piece else { return };
        self.tokens += piece.tokens;
        self.pieces.push_back(piece);
        while let Some(oldest) = self.pieces.front()
            && self.tokens - oldest.tokens >= keep.saturating_add(DRAFTS)
        {
            self.tokens -= oldest.tokens;
            self.pieces.pop_front();
        }
    }

    /// Forgets the newest `count` tokens' queries.
    pub(super) fn forget_newest(&mut self, mut count: usize) {
        while count > 0
            && let Some(newest) = self.pieces.back_mut()
        {
            let gone = newest.tokens.min(count);
            newest.tokens -= gone;
            (count, self.tokens) = (count - gone, self.tokens - gone);
            if newest.tokens == 0 {
                self.pieces.pop_back();
            }
        }
    }

    /// The last `count` tokens' queries of query heads `of`, or of as many tokens as there are, `[heads, n, head_dim]` on the device; `None` where there are none.
    pub(super) fn on_device<E: TokenEngine<Tensor = T>>(
        &self,
        engine: &E,
        count: usize,
        of: Range<usize>,
    ) -> Result<Option<T>, CoreError> {
        let count = count.min(self.tokens);
        self.chosen_on_device(engine, count, &(0..count).collect::<Vec<_>>(), of)
    }

    /// [`QueryTail::on_device`] of some of those tokens, in ascending order.
    pub(super) fn chosen_on_device<E: TokenEngine<Tensor = T>>(
        &self,
        engine: &E,
        count: usize,
        tokens: &[usize],
        of: Range<usize>,
    ) -> Result<Option<T>, CoreError> {
        let Some(newest) = self.pieces.back().filter(|_| !tokens.is_empty()) else { return Ok(None) };
        let (shape, dtype) = engine.describe(&newest.tensor);
        let (heads, dim) = (shape[1], shape[2]);
        let mut joined = None;
        let (mut start, mut done) = (0, 0);
        for piece in &self.pieces {
            // Tokens that are asked of this piece, counted through all that are recorded.
            let end = start + piece.tokens;
            let first = self.tokens - count;
            let asked = tokens[done..].iter().take_while(|&&t| first + t < end).count();
            let places: Vec<usize> = tokens[done..done + asked].iter().map(|t| first + t - start).collect();
            start = end;
            if asked == 0 {
                continue;
            }
            let row = |head: usize, place: usize| ((piece.first + place) * heads + head) as u32;
            let rows: Vec<u32> = of.clone().flat_map(|h| places.iter().map(move |&p| row(h, p))).collect();
            if asked == tokens.len() {
                let rows = engine.upload_indices(&[of.len(), asked], &rows)?;
                return engine.read_rows(&piece.tensor, &rows).map(Some);
            }
            let all = match &mut joined {
                Some(joined) => joined,
                empty => {
                    let zeros = HostTensor::zeros(&[of.len(), tokens.len(), dim], dtype)?;
                    empty.insert(engine.upload(&zeros)?)
                }
            };
            let to = |h: usize| ((h * tokens.len() + done) as u32..).take(asked);
            let to: Vec<u32> = (0..of.len()).flat_map(to).collect();
            let [from, to] = [rows, to].map(|rows| engine.upload_indices(&[rows.len()], &rows));
            engine.write_rows(all, &to?, &engine.read_rows(&piece.tensor, &from?)?)?;
            done += asked;
        }
        Ok(joined)
    }

    /// All queries on the host, `[tokens, query_heads, head_dim]`.
    pub(super) fn on_host<E: TokenEngine<Tensor = T>>(&self, engine: &E) -> Result<Vec<f32>, CoreError> {
        let tensors: Vec<&T> = self.pieces.iter().map(|piece| &piece.tensor).collect();
        let Some(&newest) = tensors.last() else { return Ok(Vec::new()) };
        let width: usize = engine.describe(newest).0[1..].iter().product();
        let read = engine.read(&tensors)?.wait()?;
        let of_piece = |(piece, read): (&Piece<T>, HostTensor)| {
            read.data().widened(piece.first * width..(piece.first + piece.tokens) * width).into_owned()
        };
        Ok(self.pieces.iter().zip(read).flat_map(of_piece).collect())
    }
}

/// The last `keep` of `from`, tokens of `query_heads` heads of `dim` channels, of heads `heads`: `[heads, n, dim]`.
pub(super) fn by_head(
    from: &[f32],
    keep: usize,
    query_heads: usize,
    heads: Range<usize>,
    dim: usize,
) -> Vec<f32> {
    let width = query_heads * dim;
    let tokens = (from.len() / width.max(1)).min(keep);
    let rows = &from[from.len() - tokens * width..];
    let mut out = Vec::with_capacity(heads.len() * tokens * dim);
    for head in heads {
        for row in rows.chunks_exact(width) {
            out.extend_from_slice(&row[head * dim..][..dim]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use tether_core::{DType, TensorData};
    use tether_host::Host;

    use super::*;

    #[test]
    fn the_last_queries_come_back_however_they_came() {
        let host = Host::new();
        let (heads, dim) = (2, 3);
        let piece = |from: usize, tokens: usize| {
            let numbers = (from * heads * dim..(from + tokens) * heads * dim).map(|n| n as f32).collect();
            HostTensor::new(&[tokens, heads, dim], TensorData::F32(numbers)).expect("so many")
        };
        for keep in [1, 3, 7, 100, usize::MAX] {
            let mut tail = QueryTail::default();
            let mut seen = 0;
            for (tokens, before) in [(5, 0), (1, 2), (1, 0), (20, 3), (1, 0), (1, 1), (1, 0), (2, 5)] {
                // Tokens of other sequences stand around these.
                let batch = piece(1000 + seen - before, before + tokens + 2);
                let of = before..before + tokens;
                tail.push(QueryTail::piece(&host, &batch, of, keep).expect("they fit"), keep);
                seen += tokens;
                let there = keep.min(seen);
                assert!(
                    tail.tokens() >= there && tail.tokens() <= keep.saturating_add(DRAFTS).saturating_mul(3)
                );
                let all = piece(1000, seen).to_f32_vec();
                let expected = by_head(&all, there, heads, 0..heads, dim);
                let got = tail.on_device(&host, there, 0..heads).expect("they fit").expect("there are some");
                assert_eq!(got.to_f32_vec(), expected, "{keep} of {seen}");
                let some: Vec<usize> = (0..there).step_by(3).collect();
                let chosen = tail.chosen_on_device(&host, there, &some, 1..heads).expect("they fit");
                let chosen = chosen.expect("there are some").to_f32_vec();
                let of_head = &expected[there * dim..];
                let rows = some.iter().flat_map(|&t| &of_head[t * dim..][..dim]);
                assert_eq!(chosen, rows.copied().collect::<Vec<_>>(), "{keep} of {seen}");
                let on_host = tail.on_host(&host).expect("they fit");
                assert_eq!(by_head(&on_host, there, heads, 0..heads, dim), expected);
                assert_eq!(got.dtype(), DType::F32);
            }
        }
    }
}
