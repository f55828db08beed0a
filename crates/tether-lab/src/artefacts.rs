//! What an experiment leaves behind for people and programs to read: pictures, a report, a summary.
//!
//! Everything written here is a function of the experiment alone. The same experiment gives the same
//! bytes, with one exception that is kept apart on purpose: measured times.

mod canvas;
mod experiment;
mod font;
mod gif;
mod markdown;
mod plot;
mod report;
mod sheet;
mod summary;
#[cfg(test)]
pub(crate) mod synthetic;
mod terminal;

pub(crate) use self::experiment::{
    CacheBytes, Experiment, RecipeSummary, Rgb8Frame, Run, Segment, Series, Timing, Work,
};
pub(crate) use self::gif::{GifOptions, write_gif};
pub(crate) use self::markdown::write_report_md;
pub(crate) use self::plot::write_plot;
pub(crate) use self::report::{ArtefactFiles, write_report_json};
pub(crate) use self::sheet::{default_sheet_frames, write_sheet};
pub(crate) use self::terminal::summary_table;
