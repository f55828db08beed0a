//! A cache of tokens: paged keys and values of every layer and head, under one recipe.

mod arrange;
mod code_pool;
mod coded;
mod compact;
mod device_scores;
mod evict;
mod extend;
mod head_pages;
mod layer_pools;
mod leaf_inputs;
mod merging;
mod observed;
mod original_keys;
mod page_regions;
mod pending;
mod positions;
mod probes;
mod reading;
mod recorded;
mod retention;
mod scoring;
mod shared_evictions;
mod side_by_side;
mod stand_ins;
mod summaries;
mod turns;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tether_core::{LayerId, ScoreLeaf, Side, TokenEngine};
use tether_layout::{BlockPool, Csr};
use tether_rope::TokenRope;
use tether_score::tokens::HeadProfile;

use super::{KnownFacts, SequenceState, StoredKeys, TokenGeometry, TokenPlanner, TokenRecipe};
use crate::{Error, RecipeError};
use code_pool::LayerCodes;
use coded::{CodedHead, SharedFrames};
use head_pages::{HeadPages, page_rows};
use layer_pools::{LayerPools, Shrunk};
use page_regions::Region;
use pending::Pending;
use probes::Probes;
use reading::chooses_for_each;
use recorded::Recorded;
use shared_evictions::SharedEviction;
use stand_ins::StandInRows;
use summaries::Wanted;

pub use evict::EvictReport;
pub use extend::{NewTokens, TokenBatch};

/// A sequence of a [`TokenCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SequenceId(u32);

/// Bytes of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBytes {
    /// Held on the device for numbers, in use or not, and for codes that are not there yet.
    pub resident: u64,
    /// Blocks that some sequence refers to; a block that several share counts once.
    pub in_use: u64,
    /// What a cache that keeps every token of every sequence would hold, not rounded up to blocks.
    pub full: u64,
    /// Held beside that: keys, as they came, of tokens that move again and again, tokens that stand for evicted ones,
    /// of which sequences that share one count it each, and summaries of pages.
    pub host: u64,
    /// Held beside that: codes, with what they are relative to, scales, radii, headers and positions. A page that
    /// several sequences refer to counts once.
    pub coded: u64,
    /// What the newest token of every sequence attended to, and the summaries that its choice was made by. Less than what is held where a
    /// recipe retains what it does not read.
    pub read: u64,
    /// What the next choice looks at beside keys and values: queries, sums of attention, and what probes asked. Not part of what is
    /// [`TokenBytes::held`].
    pub observed: u64,
}

impl TokenBytes {
    /// All keys and values that are held, in whatever form.
    pub fn held(&self) -> u64 {
        self.resident + self.host + self.coded
    }
}

/// Keys and values of the tokens of any number of sequences.
///
/// Every head of a layer has a block table of its own over one pool of blocks of the layer, so that heads may keep different tokens and
/// different numbers of them, and what a head evicts is free at once. Each layer has a pool because kernels count elements with 32 bits, and
/// because resizing copies a pool. A recipe may close the gaps that evicted tokens leave: what stays moves up to the next position. Sequences may share blocks ([`TokenCache::fork`]).
///
/// A text is read with [`TokenCache::extend`], layer by layer, in blocks of any size; [`TokenCache::evict`] then carries the recipe out, after
/// the prompt and again after every further block or token.
#[derive(Debug)]
pub struct TokenCache<E: TokenEngine> {
    engine: E,
    geometry: TokenGeometry,
    planner: TokenPlanner,
    facts: ModelInfo,
    /// How each layer makes logits.
    attention: Vec<E::Attention>,
    layers: Vec<LayerPools<E>>,
    /// The output projection of each layer's query heads, where scores ask the device for it.
    projections: Vec<E::Tensor>,
    /// Pages of codes of each layer.
    codes: Vec<LayerCodes<E>>,
    /// The last eviction of each layer of pages that others share.
    shared: Vec<Option<SharedEviction>>,
    /// Evictions so far.
    stamps: u64,
    sequences: BTreeMap<SequenceId, Sequence<E::Tensor>>,
    next: u32,
}

/// What some recipes ask of the model beside its keys, values and queries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelInfo {
    /// How keys are turned to their positions. A session gives each token one position, so that whatever turns keys, or foresees how queries
    /// turn, is [`tether_score::ScoreError::Axes`] where a rotation has more axes (M-RoPE); a recipe that does neither takes any rotation.
    pub rope: Option<TokenRope>,
    /// The output projection of each layer, `[hidden, query_heads * head_dim_v]`, row-major.
    pub output_projections: Vec<Vec<f32>>,
    /// Which heads are of which kind.
    pub head_profile: Option<HeadProfile>,
}

impl ModelInfo {
    /// The facts, to be checked against a recipe ([`TokenRecipe::check_facts`]).
    pub fn known(&self) -> KnownFacts<'_> {
        let Self { rope, output_projections, head_profile } = self;
        KnownFacts { rope: rope.as_ref(), output_projections, head_profile: head_profile.as_ref() }
    }
}

/// What a head holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeadContents {
    /// Positions, ascending.
    pub positions: Vec<i32>,
    /// Keys, `[tokens, head_dim_k]`.
    pub keys: Vec<f32>,
    /// Values, `[tokens, head_dim_v]`.
    pub values: Vec<f32>,
}

#[derive(Clone, Debug)]
struct Sequence<T> {
    layers: Vec<SequenceLayer<T>>,
    state: SequenceState,
    /// True once the prompt's eviction was done.
    decoding: bool,
    /// Tokens of layer 0 at the last eviction.
    evicted_at: usize,
    /// What was decided and is not done yet.
    pending: Option<Pending<T>>,
    /// Tokens of layer 0 when lists were last changed by anything but new tokens: those that came since are the last ones of each list.
    settled: usize,
}

impl<T> Sequence<T> {
    /// All layers have had the same tokens.
    fn check_layers(&self) -> Result<(), Error> {
        let expected = self.layers[0].seen;
        match self.layers.iter().position(|layer| layer.seen != expected) {
            Some(layer) => {
                let got = self.layers[layer].seen;
                Err(Error::LayerTokens { layer: LayerId(layer as u32), expected, got })
            }
            None => Ok(()),
        }
    }
}

/// What the heads of a layer hold beside their pages.
#[derive(Clone, Debug)]
struct BesidePages<T> {
    /// Keys of tokens that have moved, as they came, `[n, 1, head_dim_k]`.
    originals: Option<T>,
    stand_ins: Option<StandInRows<T>>,
}

impl<T> Default for BesidePages<T> {
    fn default() -> Self {
        Self { originals: None, stand_ins: None }
    }
}

#[derive(Clone, Debug)]
struct SequenceLayer<T> {
    heads: Vec<HeadPages>,
    /// What is read instead where a choice holds; none otherwise.
    read: Vec<HeadPages>,
    /// Tokens that the newest token attended to, summed over key heads.
    attended: usize,
    /// Tokens that came, evicted ones included.
    seen: usize,
    recorded: Recorded<T>,
    /// Which eviction wrote rows of the heads' lists last; what only came after them is not counted.
    stamp: u64,
    beside: BesidePages<T>,
    probes: Option<Probes<T>>,
    /// What codes are relative to, and since when they are what they are.
    frames: SharedFrames<T>,
    coded_at: u64,
}

impl<T> Default for SequenceLayer<T> {
    fn default() -> Self {
        Self {
            heads: Vec::new(),
            read: Vec::new(),
            attended: 0,
            seen: 0,
            recorded: Recorded::default(),
            stamp: 0,
            beside: BesidePages::default(),
            probes: None,
            frames: None,
            coded_at: 0,
        }
    }
}

impl<T: Clone> SequenceLayer<T> {
    /// All lists that refer to pages.
    fn lists(&self) -> impl Iterator<Item = &HeadPages> {
        self.heads.iter().chain(&self.read)
    }

    fn lists_mut(&mut self) -> impl Iterator<Item = &mut HeadPages> {
        self.heads.iter_mut().chain(&mut self.read)
    }

    /// The lists that queries read.
    fn reading(&self) -> &[HeadPages] {
        if self.read.is_empty() { &self.heads } else { &self.read }
    }

    fn reading_mut(&mut self) -> &mut [HeadPages] {
        if self.read.is_empty() { &mut self.heads } else { &mut self.read }
    }

    /// Puts lists in the place of the heads', whose parts of the page table they take over.
    fn replace_heads(&mut self, mut heads: Vec<HeadPages>) {
        for (new, old) in heads.iter_mut().zip(&mut self.heads) {
            let same = new.blocks.iter().zip(&old.blocks).take_while(|(a, b)| a == b).count();
            new.region = std::mem::take(&mut old.region);
            new.region.changed_from(same);
        }
        self.heads = heads;
    }

    /// Bytes of codes and of what they are relative to, of which none is among `counted` yet.
    fn coded_bytes(&self, counted: &mut HashSet<usize>) -> u64 {
        let frames = self.frames.as_ref().filter(|frames| counted.insert(Arc::as_ptr(frames).addr()));
        let of_heads: u64 = self.heads.iter().map(|head| head.coded.bytes(counted)).sum();
        of_heads + frames.map_or(0, |frames| frames.bytes())
    }

    /// Tokens whose queries are recorded or kept for probes, as numbers of `f32`.
    fn observed_numbers(&self, query_width: usize, key_width: usize) -> usize {
        let probes = self.probes.as_ref().map_or(0, |p| p.count * (query_width + key_width));
        (self.recorded.queries.tokens() + self.recorded.raw_queries.tokens()) * query_width + probes
    }
}

impl<E: TokenEngine> TokenCache<E> {
    /// A cache without sequences, for a model of which `facts` are known: as many as the recipe asks for ([`TokenRecipe::requires`] says
    /// which), so that none is found missing when a prompt has been read.
    ///
    /// # Errors
    /// [`Error::Core`] for a geometry out of range, whatever [`TokenRecipe::validate`] refuses, [`RecipeError::Combination`] for a recipe
    /// that a growing cache cannot carry out: one that gives query heads of a key head tokens of their own, that would move tokens for
    /// every token, or that stores keys un-rotated; and whatever [`TokenRecipe::check_facts`] refuses: [`RecipeError::Missing`] for facts that
    /// are not there, [`Error::Score`] for those of another model.
    pub fn new(
        engine: E,
        geometry: TokenGeometry,
        recipe: TokenRecipe,
        mut facts: ModelInfo,
    ) -> Result<Self, Error> {
        geometry.validate()?;
        let refuse = |problem| Err(RecipeError::Combination { recipe: recipe.name.clone(), problem }.into());
        if recipe.separates_query_heads() {
            return refuse(
                "score.heads = \"separate\" needs keys repeated for each query head; use \"grouped\"",
            );
        }
        if recipe.position.keys == StoredKeys::PreRope {
            return refuse(
                "a session is given rotated keys and stores those, so position.keys must be \"post-rope\"",
            );
        }
        let shaped = (0..geometry.layers).any(|layer| !geometry.attention(layer).is_plain());
        let stand_ins = recipe.edit.as_ref().is_some_and(|edit| edit.kind() == "compensate");
        let outside = recipe.codec.is_some() || stand_ins || chooses_for_each(&recipe);
        if shaped && (outside || recipe.needs().accumulated_attention) {
            return refuse(
                "attention with a soft cap, a window, slopes or sinks is made over pages alone, and not added up: leave [codec], compensation and retain out, and score by something else",
            );
        }
        let mut planner = TokenPlanner::new(recipe)?;
        if let Some(part) = &planner.recipe().codec {
            part.suits(geometry.head_dim_k, geometry.head_dim_v)?;
        }
        reading::check(planner.recipe(), planner.needs().accumulated_attention)?;
        planner.recipe().check_facts(facts.known(), &geometry)?;
        if let Some(profile) = facts.head_profile.take() {
            planner = planner.with_profile(profile);
        }
        let sums = planner.needs().accumulated_attention;
        let wanted = Wanted::of(planner.needs(), planner.recipe().retain, geometry.block_size);
        let layers = (0..geometry.layers)
            .map(|layer| {
                let positions = geometry.attention(layer).uses_positions();
                LayerPools::new(&engine, &geometry, (sums, positions, wanted))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let of_layer = |layer| engine.upload_attention(&geometry.attention(layer));
        let attention = (0..geometry.layers).map(of_layer).collect::<Result<_, _>>()?;
        let projected = engine.observes(&ScoreLeaf::ProjectedValueNorm);
        let projections = match planner.needs().output_projection && projected {
            true => leaf_inputs::projections(&engine, &geometry, &facts.output_projections)?,
            false => Vec::new(),
        };
        let formats = match &planner.recipe().codec {
            Some(part) => coded::formats(part, &geometry),
            None => Vec::new(),
        };
        let of_layer = |_| LayerCodes::new(&engine, &formats);
        let codes = (0..geometry.layers).map(of_layer).collect::<Result<_, _>>()?;
        let (shared, sequences) = (vec![None; layers.len()], BTreeMap::new());
        Ok(Self {
            engine,
            geometry,
            planner,
            facts,
            attention,
            layers,
            projections,
            codes,
            shared,
            stamps: 0,
            sequences,
            next: 0,
        })
    }

    /// The engine.
    pub fn engine(&self) -> &E {
        &self.engine
    }

    /// The geometry.
    pub fn geometry(&self) -> &TokenGeometry {
        &self.geometry
    }

    /// What decides.
    pub fn planner(&self) -> &TokenPlanner {
        &self.planner
    }

    /// An empty sequence.
    pub fn start(&mut self) -> SequenceId {
        let layer = |_| SequenceLayer {
            heads: vec![HeadPages::default(); self.geometry.kv_heads],
            ..SequenceLayer::default()
        };
        let layers = (0..self.geometry.layers).map(layer).collect();
        let state = SequenceState::default();
        self.insert(Sequence { layers, state, decoding: false, evicted_at: 0, pending: None, settled: 0 })
    }

    /// A sequence that goes on from where `of` is. Both share their blocks until one of them writes to a block or evicts from it, and then has
    /// one of its own.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`].
    pub fn fork(&mut self, of: SequenceId) -> Result<SequenceId, Error> {
        let copy = self.sequence(of)?.clone();
        for (layer, held) in self.layers.iter_mut().zip(&copy.layers) {
            for &block in held.lists().flat_map(|h| &h.blocks) {
                layer.pool.share(block)?;
            }
        }
        Ok(self.insert(copy))
    }

    /// Forgets a sequence; blocks that no other one refers to are free.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`].
    pub fn remove(&mut self, sequence: SequenceId) -> Result<(), Error> {
        let mut gone = self.sequences.remove(&sequence).ok_or(unknown(sequence))?;
        gone.pending = None;
        for (layer, held) in gone.layers.into_iter().enumerate() {
            self.layers[layer].forget(held.heads)?;
            self.layers[layer].forget(held.read)?;
            self.codes[layer].forget(sequence);
            self.give_back(layer, None);
        }
        Ok(())
    }

    fn insert(&mut self, sequence: Sequence<E::Tensor>) -> SequenceId {
        let id = SequenceId(self.next);
        self.next += 1;
        self.sequences.insert(id, sequence);
        id
    }

    fn sequence(&self, id: SequenceId) -> Result<&Sequence<E::Tensor>, Error> {
        self.sequences.get(&id).ok_or(unknown(id))
    }

    fn layer_index(&self, layer: impl Into<LayerId>) -> Result<usize, Error> {
        let layer = layer.into();
        if layer.index() < self.layers.len() {
            return Ok(layer.index());
        }
        Err(Error::NoSuchLayer { layer, layers: self.layers.len() })
    }

    /// Tokens that each head of a layer holds, in blocks or as codes; what stands for evicted ones is not counted.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::NoSuchLayer`].
    pub fn head_lengths(&self, sequence: SequenceId, layer: impl Into<LayerId>) -> Result<Vec<usize>, Error> {
        let layer = self.layer_index(layer)?;
        Ok(self.sequence(sequence)?.layers[layer].heads.iter().map(HeadPages::held).collect())
    }

    /// Positions of the tokens that a head of a layer holds, ascending.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::NoSuchLayer`].
    ///
    /// # Panics
    /// When there is no such head.
    pub fn positions(
        &self,
        sequence: SequenceId,
        layer: impl Into<LayerId>,
        kv_head: usize,
    ) -> Result<Cow<'_, [i32]>, Error> {
        let layer = self.layer_index(layer)?;
        let head = &self.sequence(sequence)?.layers[layer].heads[kv_head];
        if head.coded.is_empty() {
            return Ok(head.positions.as_slice().into());
        }
        let mut positions = [&head.coded.page_positions()[..], head.positions.as_slice()].concat();
        positions.sort_unstable();
        Ok(positions.into())
    }

    /// What a head of a layer attends to, position by position: keys and values as they are stored, codes as the numbers that they stand for.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::NoSuchLayer`], [`Error::Core`] when the device fails.
    ///
    /// # Panics
    /// When there is no such head.
    pub fn contents(
        &self,
        sequence: SequenceId,
        layer: impl Into<LayerId>,
        kv_head: usize,
    ) -> Result<HeadContents, Error> {
        let layer = self.layer_index(layer)?;
        let head = &self.sequence(sequence)?.layers[layer].heads[kv_head];
        let part = std::slice::from_ref(head);
        let frames = self.sequence(sequence)?.layers[layer].frames.as_deref();
        let coded = coded::restored(&self.engine, &self.codes[layer], (&head.coded, kv_head), frames)?;
        let side = |side, dim: usize| -> Result<Vec<Vec<f32>>, Error> {
            let rows = [coded[side as usize].clone(), self.rows_of(layer, side, part)?].concat();
            Ok(rows.chunks_exact(dim).map(<[f32]>::to_vec).collect())
        };
        let keys = side(Side::Keys, self.geometry.head_dim_k)?;
        let values = side(Side::Values, self.geometry.head_dim_v)?;
        let positions = [&head.coded.page_positions()[..], head.positions.as_slice()].concat();
        let mut rows: Vec<_> = positions.into_iter().zip(keys.into_iter().zip(values)).collect();
        rows.sort_by_key(|row| row.0);
        let mut contents = HeadContents::default();
        for (position, (key, value)) in rows {
            contents.positions.push(position);
            contents.keys.extend(key);
            contents.values.extend(value);
        }
        Ok(contents)
    }

    /// Tokens that a layer of a sequence was given, evicted ones included.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::NoSuchLayer`].
    pub fn seen(&self, sequence: SequenceId, layer: impl Into<LayerId>) -> Result<usize, Error> {
        let layer = self.layer_index(layer)?;
        Ok(self.sequence(sequence)?.layers[layer].seen)
    }

    /// Block tables of a layer in the form that paged attention kernels take: a row for each head, over pools `[blocks, block_size, 1,
    /// head_dim]` ([`TokenCache::pools`]). Tokens that are coded are in no block. The tokens of a row lie in no particular order, which attention to all of
    /// them does not depend on; [`TokenCache::slot_mapping`] says where each is.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::NoSuchLayer`].
    pub fn csr(&self, sequence: SequenceId, layer: impl Into<LayerId>) -> Result<Csr, Error> {
        let (layer, size) = (self.layer_index(layer)?, self.geometry.block_size);
        let heads = &self.sequence(sequence)?.layers[layer].heads;
        let (indptr, indices) = page_rows(heads);
        let last = |head: &HeadPages| head.len().checked_sub(1).map_or(0, |last| last % size + 1) as u32;
        Ok(Csr { indptr, indices, last_page_len: heads.iter().map(last).collect() })
    }

    /// Where the tokens of a head lie that are in blocks, in the order of their positions: rows of a layer's pools, counted from the pool's first, as slot mappings have it.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::NoSuchLayer`].
    ///
    /// # Panics
    /// When there is no such head.
    pub fn slot_mapping(
        &self,
        sequence: SequenceId,
        layer: impl Into<LayerId>,
        kv_head: usize,
    ) -> Result<Vec<u32>, Error> {
        let (layer, size) = (self.layer_index(layer)?, self.geometry.block_size);
        let head = &self.sequence(sequence)?.layers[layer].heads[kv_head];
        Ok((0..head.len()).map(|token| head.row(token, size)).collect())
    }

    /// Which blocks of a layer's pools are in use, and by how many lists.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`].
    pub fn block_pool(&self, layer: impl Into<LayerId>) -> Result<&BlockPool, Error> {
        Ok(&self.layers[self.layer_index(layer)?].pool)
    }

    /// Every list by which a sequence refers to blocks of a layer: those of the key heads, which [`TokenCache::csr`] has, and after them those
    /// of what is read instead, a key head each, where a choice holds.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::NoSuchLayer`].
    pub fn block_lists(&self, sequence: SequenceId, layer: impl Into<LayerId>) -> Result<Vec<&[u32]>, Error> {
        let layer = self.layer_index(layer)?;
        Ok(self.sequence(sequence)?.layers[layer].lists().map(|h| h.blocks.as_slice()).collect())
    }

    /// Keys and values of a layer, `[blocks, block_size, 1, head_dim]`.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`].
    pub fn pools(&self, layer: impl Into<LayerId>) -> Result<(&E::Tensor, &E::Tensor), Error> {
        let layer = &self.layers[self.layer_index(layer)?];
        Ok((&layer.k, &layer.v))
    }

    /// Bytes held and bytes in use, over all layers and sequences.
    pub fn bytes(&self) -> TokenBytes {
        let block = self.geometry.block_bytes();
        let token = block / self.geometry.block_size as u64 * self.geometry.kv_heads as u64;
        let layers = || self.sequences.values().flat_map(|s| &s.layers);
        let seen = layers().map(|l| l.seen as u64).sum::<u64>();
        let by_choice = chooses_for_each(self.planner.recipe());
        let of_page = self.wanted().page_bytes(&self.geometry);
        let summaries: u64 = self.layers.iter().map(|l| (l.pool.in_use() * of_page) as u64).sum();
        let attended = layers().map(|l| l.attended as u64).sum::<u64>();
        let mut counted = HashSet::new();
        let coded = layers().map(|l| l.coded_bytes(&mut counted)).sum();
        let of_layer = |(layer, codes): (usize, &LayerCodes<E>)| {
            let mut counted = HashSet::new();
            let heads = self.coded_heads(layer);
            codes.room(heads.map(|head| head.code_bytes(&mut counted)).sum())
        };
        let room: u64 = self.codes.iter().enumerate().map(of_layer).sum();
        let stand_in = (self.geometry.head_dim_k + self.geometry.head_dim_v) * size_of::<f32>();
        let stand_ins = layers().filter_map(|l| l.beside.stand_ins.as_ref()).map(StandInRows::heads);
        let stand_ins = (stand_ins.sum::<usize>() * stand_in) as u64;
        let originals: usize = layers().flat_map(SequenceLayer::lists).map(|h| h.originals.len()).sum();
        let originals = (originals * self.geometry.head_dim_k * self.geometry.dtype.bytes()) as u64;
        let [query_width, key_width] =
            [self.geometry.query_heads, self.geometry.kv_heads].map(|heads| heads * self.geometry.head_dim_k);
        let observed: usize = layers().map(|l| l.observed_numbers(query_width, key_width)).sum();
        let rows = |l: &LayerPools<E>| l.pool.in_use() * self.geometry.block_size * self.geometry.group();
        let sums: usize = self.layers.iter().filter(|l| l.sums.is_some()).map(rows).sum();
        TokenBytes {
            resident: self.layers.iter().map(|l| l.pool.capacity() as u64 * block).sum::<u64>() + room,
            in_use: self.layers.iter().map(|l| l.pool.in_use() as u64 * block).sum(),
            full: seen * token,
            host: summaries + originals + stand_ins,
            coded,
            read: attended * (block / self.geometry.block_size as u64)
                + if by_choice { summaries } else { 0 }
                + stand_ins
                + coded,
            observed: (observed * self.geometry.dtype.bytes() + sums * size_of::<f32>()) as u64,
        }
    }

    /// Bytes of the codes that a sequence refers to, whoever shares them.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`].
    pub fn coded_bytes(&self, sequence: SequenceId) -> Result<u64, Error> {
        let mut counted = HashSet::new();
        Ok(self.sequence(sequence)?.layers.iter().map(|l| l.coded_bytes(&mut counted)).sum())
    }

    /// Bytes of the blocks that a sequence refers to, whoever else does.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`].
    pub fn bytes_of(&self, sequence: SequenceId) -> Result<u64, Error> {
        let of_layer = |held: &SequenceLayer<E::Tensor>| -> u64 {
            let blocks: BTreeSet<u32> = held.lists().flat_map(|h| &h.blocks).copied().collect();
            blocks.len() as u64
        };
        let blocks: u64 = self.sequence(sequence)?.layers.iter().map(of_layer).sum();
        Ok(blocks * self.geometry.block_bytes())
    }

    /// Every head that holds codes of a layer, or is to.
    fn coded_heads(&self, layer: usize) -> impl Iterator<Item = &CodedHead> + Clone {
        coded_heads(&self.sequences, layer)
    }

    /// Shrinks a layer's pools where much of them is free, as `shrunk` says of numbers where that is known. A device that cannot do
    /// that now is asked again when more is free: nothing is lost by it but memory.
    fn give_back(&mut self, layer: usize, shrunk: Option<Shrunk>) {
        let Self { engine, codes, sequences, .. } = self;
        codes[layer].shrink(engine, coded_heads(sequences, layer));
        let pools = &mut self.layers[layer];
        let Some(shrunk) = shrunk.or_else(|| Shrunk::of(&pools.pool, self.geometry.kv_heads)) else { return };
        let Ok(renumbered) = pools.shrink(&self.engine, shrunk) else { return };
        // Pages are not called what they were.
        self.shared[layer] = None;
        for sequence in self.sequences.values_mut() {
            for list in sequence.layers[layer].lists_mut() {
                list.blocks.iter_mut().for_each(|b| *b = renumbered[*b as usize]);
                list.region = Region::default();
            }
        }
    }
}

fn coded_heads<T>(
    sequences: &BTreeMap<SequenceId, Sequence<T>>,
    layer: usize,
) -> impl Iterator<Item = &CodedHead> + Clone {
    sequences.values().flat_map(move |sequence| {
        let pending = sequence.pending.iter().flat_map(|pending| &pending.layers);
        let pending = pending.filter(move |next| next.plan.layer == layer);
        let pending = pending.flat_map(|next| &next.codings);
        let held = sequence.layers[layer].heads.iter().map(|head| &head.coded);
        held.chain(pending.map(|coding| &coding.coded))
    })
}

fn unknown(sequence: SequenceId) -> Error {
    Error::UnknownSequence { sequence: sequence.0 }
}
