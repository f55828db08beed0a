//! A session: the cache of one model instance, layer by layer and pass by pass.

mod commit;
mod recall;
mod report;
mod stage;
mod view;

use tether_core::{ChunkIndex, CoreError, DType, Engine, Geometry, LayerId, StoreSpec};
use tether_rope::FrameRope;

pub use report::{CacheBytes, Report, StageReport};
pub use stage::{Pass, PassKind};
pub use tether_core::Traffic;
pub use view::View;

use crate::planner::{LayerTables, Planner};
use crate::{Compat, Error, Recipe, RecipeError};

/// Keys and values of every layer of a model, under one recipe.
///
/// Each layer has its own windows and makes its own choices. See the crate's front page for a session.
#[derive(Debug)]
pub struct KvCache<E: Engine> {
    engine: E,
    geometry: Geometry,
    planner: Planner,
    layers: Vec<Layer<E>>,
    rope: Option<FrameRope>,
    rotation: Option<E::Rotation>,
    /// `0, 1, ..`, as many as `rotation` covers.
    positions: Vec<u32>,
    keeps_rotated: bool,
}

#[derive(Debug)]
struct Layer<E: Engine> {
    store: E::Store,
    tables: LayerTables,
    /// Chunks committed.
    committed: u64,
    /// The chunk that has been staged and not committed.
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    chunk: ChunkIndex,
    clean: bool,
}

impl<E: Engine> KvCache<E> {
    /// An empty cache. A bounded recipe's memory is allocated here and never again.
    ///
    /// # Errors
    /// [`Error::Core`] for a geometry out of range, an unsuitable RoPE ([`Error::Rope`]), whatever [`Recipe::regions`] refuses, and [`RecipeError::Combination`] for
    /// a recipe with a codec on an engine whose stores hold numbers.
    pub fn new(engine: E, geometry: Geometry, recipe: Recipe) -> Result<Self, Error> {
        geometry.validate()?;
        if recipe.codec.is_some() && !engine.stores_codes() {
            let problem = "its [codec] part needs an engine whose stores hold codes, such as CodedHost";
            return Err(RecipeError::Combination { recipe: recipe.name, problem }.into());
        }
        let planner = Planner::new(recipe, geometry.units_per_chunk)?;
        let layers = (0..geometry.layers)
            .map(|_| {
                let tables = planner.tables(geometry.sequences);
                let store = engine.create_store(&store_spec(&geometry, tables.pool.capacity()))?;
                Ok(Layer { store, tables, committed: 0, open: None })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let heads = (geometry.kv_heads, geometry.head_dim_k);
        let rope = FrameRope::new(&geometry.rope, heads, geometry.tokens_per_unit)?;
        let (rotation, positions, keeps_rotated) = (None, Vec::new(), true);
        let mut cache = Self { engine, geometry, planner, layers, rope, rotation, positions, keeps_rotated };
        let positions = cache.planner.regions().capacity().unwrap_or(cache.geometry.units_per_chunk);
        cache.cover_positions(positions)?;
        Ok(cache)
    }

    /// Whether the keys of each layer's window stay rotated from one pass to the next, as they do at first: then a pass rotates its own chunk and what
    /// has changed or moved, and half as much memory again is taken as the windows have. Without, every pass rotates the whole window.
    #[must_use]
    pub fn keep_rotated(mut self, keep: bool) -> Self {
        self.keeps_rotated = keep;
        self
    }

    /// Forgets everything: the next chunk is chunk 0 of another sequence. Stores are kept, so nothing is allocated, except that under
    /// `compat = "official"` a window that is not whole chunks needs zeros where nothing was written.
    ///
    /// # Errors
    /// [`Error::Core`] when the engine cannot make such a store anew; layers before it are empty then.
    pub fn reset(&mut self) -> Result<(), Error> {
        let zeros = self.recipe().compat == Compat::Official;
        for layer in &mut self.layers {
            let slots = layer.tables.pool.capacity();
            let mut tables = self.planner.tables(self.geometry.sequences);
            tables.pool.grow(slots);
            if zeros {
                layer.store = self.engine.create_store(&store_spec(&self.geometry, slots))?;
            }
            (layer.tables, layer.committed, layer.open) = (tables, 0, None);
        }
        Ok(())
    }

    /// The engine.
    pub fn engine(&self) -> &E {
        &self.engine
    }

    /// The geometry.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        self.planner.recipe()
    }

    /// The tables of a layer.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`].
    pub fn tables(&self, layer: impl Into<LayerId>) -> Result<&LayerTables, Error> {
        Ok(&self.layers[self.layer_index(layer.into())?].tables)
    }

    /// Chunks of a layer that are committed: the number of the next one, or of the one whose passes are under way.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`].
    pub fn committed(&self, layer: impl Into<LayerId>) -> Result<u64, Error> {
        Ok(self.layers[self.layer_index(layer.into())?].committed)
    }

    /// Bytes held and bytes attended to, over all layers and sequences.
    pub fn bytes(&self) -> CacheBytes {
        let unit = self.geometry.unit_bytes() as u64;
        let mut bytes = CacheBytes::default();
        for layer in &self.layers {
            bytes.resident += self.engine.store_bytes(&layer.store);
            bytes.rotated += self.engine.rotated_bytes(&layer.store);
            for window in layer.tables.windows() {
                bytes.window += window.slots().len() as u64 * unit;
                bytes.in_use += window.resident().len() as u64 * unit;
                bytes.full_history += window.end() * unit;
            }
        }
        bytes
    }

    fn layer_index(&self, layer: LayerId) -> Result<usize, Error> {
        if layer.index() < self.layers.len() {
            Ok(layer.index())
        } else {
            Err(Error::NoSuchLayer { layer, layers: self.layers.len() })
        }
    }

    /// Makes sure that the rotation and `positions` cover `count` positions.
    fn cover_positions(&mut self, count: usize) -> Result<(), Error> {
        if count <= self.positions.len() {
            return Ok(());
        }
        let count = count.max(self.positions.len().saturating_mul(2));
        let end =
            u32::try_from(count).map_err(|_| tether_layout::LayoutError::Overflow { what: "positions" })?;
        let table = |rope: &FrameRope| rope.with_table(end, |table| self.engine.upload_rotation(table));
        self.rotation = self.rope.as_ref().map(table).transpose()?;
        self.positions = (0..end).collect();
        Ok(())
    }

    fn expect(
        &self,
        what: &'static str,
        tensor: &E::Tensor,
        expected: &[usize],
        dtype: DType,
    ) -> Result<(), Error> {
        let (shape, got) = self.engine.describe(tensor);
        let flat = if shape.len() == expected.len() + 1 && shape[0] == 1 { &shape[1..] } else { shape };
        if flat != expected {
            let (expected, got) = (expected.into(), shape.into());
            return Err(CoreError::ShapeMismatch { what, expected, got }.into());
        }
        if got != dtype {
            return Err(CoreError::DTypeMismatch { what, expected: dtype, got }.into());
        }
        Ok(())
    }
}

fn store_spec(geometry: &Geometry, slots: usize) -> StoreSpec {
    StoreSpec {
        slots,
        tokens_per_unit: geometry.tokens_per_unit,
        kv_heads: geometry.kv_heads,
        head_dim_k: geometry.head_dim_k,
        head_dim_v: geometry.head_dim_v,
        dtype: geometry.dtype,
    }
}
