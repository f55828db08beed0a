//! Kinds of calls.

/// A method of a backend's traits, or a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`Engine::upload`](tether_core::Engine::upload).
    Upload,
    /// [`Engine::read`](tether_core::Engine::read); the bytes count here, whether somebody waits for them or not.
    Read,
    /// [`Readback::wait`](tether_core::Readback::wait).
    Wait,
    /// [`Engine::create_store`](tether_core::Engine::create_store).
    CreateStore,
    /// [`Engine::grow_store`](tether_core::Engine::grow_store).
    GrowStore,
    /// [`Engine::write`](tether_core::Engine::write).
    Write,
    /// [`Engine::check_finite`](tether_core::Engine::check_finite).
    CheckFinite,
    /// [`Engine::mean_logits_of`](tether_core::Engine::mean_logits_of).
    MeanLogits,
    /// [`Engine::align`](tether_core::Engine::align).
    Align,
    /// [`Engine::attend`](tether_core::Engine::attend).
    Attend,
    /// [`Engine::gather`](tether_core::Engine::gather).
    Gather,
    /// [`Engine::moments`](tether_core::Engine::moments).
    Moments,
    /// [`TokenEngine::upload_indices`](tether_core::TokenEngine::upload_indices).
    UploadIndices,
    /// [`TokenEngine::read_indices`](tether_core::TokenEngine::read_indices), which waits.
    ReadIndices,
    /// [`Engine::upload_rotation`](tether_core::Engine::upload_rotation).
    UploadRotation,
    /// [`TokenEngine::upload_tables`](tether_core::TokenEngine::upload_tables).
    UploadTables,
    /// [`TokenEngine::rotate`](tether_core::TokenEngine::rotate).
    Rotate,
    /// [`TokenEngine::rotated`](tether_core::TokenEngine::rotated).
    Rotated,
    /// [`TokenEngine::window_scores`](tether_core::TokenEngine::window_scores).
    WindowScores,
    /// [`TokenEngine::top_k`](tether_core::TokenEngine::top_k).
    TopK,
    /// [`TokenEngine::gather_rows`](tether_core::TokenEngine::gather_rows), of one or two tensors.
    GatherRows,
    /// [`TokenEngine::gather_pages`](tether_core::TokenEngine::gather_pages), of one or two pools.
    GatherPages,
    /// [`TokenEngine::decode`](tether_core::TokenEngine::decode).
    Decode,
    /// [`TokenEngine::read_rows`](tether_core::TokenEngine::read_rows).
    ReadRows,
    /// [`TokenEngine::write_rows`](tether_core::TokenEngine::write_rows), of one tensor or several.
    WriteRows,
    /// [`TokenEngine::weighted_rows`](tether_core::TokenEngine::weighted_rows).
    WeightedRows,
    /// [`TokenEngine::join_similar`](tether_core::TokenEngine::join_similar).
    JoinSimilar,
    /// [`TokenEngine::attend_stand_ins`](tether_core::TokenEngine::attend_stand_ins).
    AttendStandIns,
    /// [`TokenEngine::write_page_bounds`](tether_core::TokenEngine::write_page_bounds).
    WritePageBounds,
    /// [`TokenEngine::choose_pages`](tether_core::TokenEngine::choose_pages).
    ChoosePages,
    /// [`TokenEngine::add_attention`](tether_core::TokenEngine::add_attention).
    AddAttention,
    /// [`TokenEngine::list_rows`](tether_core::TokenEngine::list_rows), [`TokenEngine::chosen_rows`](tether_core::TokenEngine::chosen_rows).
    ListRows,
    /// [`TokenEngine::words`](tether_core::TokenEngine::words).
    Words,
    /// [`TokenEngine::observe`](tether_core::TokenEngine::observe).
    Observe,
    /// [`TokenEngine::score_op`](tether_core::TokenEngine::score_op).
    ScoreOp,
    /// [`TokenEngine::create_page_table`](tether_core::TokenEngine::create_page_table).
    CreatePageTable,
    /// [`TokenEngine::grow_page_table`](tether_core::TokenEngine::grow_page_table).
    GrowPageTable,
    /// [`TokenEngine::write_page_table`](tether_core::TokenEngine::write_page_table).
    WritePageTable,
    /// [`TokenEngine::page_lists`](tether_core::TokenEngine::page_lists).
    PageLists,
    /// [`TokenEngine::upload_attention`](tether_core::TokenEngine::upload_attention).
    UploadAttention,
    /// [`TokenEngine::attend_paged`](tether_core::TokenEngine::attend_paged).
    AttendPaged,
    /// [`TokenEngine::create_codes`](tether_core::TokenEngine::create_codes).
    CreateCodes,
    /// [`TokenEngine::gather_codes`](tether_core::TokenEngine::gather_codes).
    GatherCodes,
    /// [`TokenEngine::code_frames`](tether_core::TokenEngine::code_frames).
    CodeFrames,
    /// [`TokenEngine::write_codes`](tether_core::TokenEngine::write_codes).
    WriteCodes,
    /// [`TokenEngine::copy_code_rows`](tether_core::TokenEngine::copy_code_rows).
    CopyCodeRows,
    /// [`TokenEngine::restore_codes`](tether_core::TokenEngine::restore_codes).
    RestoreCodes,
    /// [`TokenEngine::attend_codes`](tether_core::TokenEngine::attend_codes).
    AttendCodes,
    /// [`TokenEngine::merge_attention`](tether_core::TokenEngine::merge_attention).
    MergeAttention,
    /// [`CodecEngine::quantise`](tether_codec::CodecEngine::quantise).
    Quantise,
    /// [`CodecEngine::dequantise`](tether_codec::CodecEngine::dequantise).
    Dequantise,
    /// [`CodecEngine::upload_codes`](tether_codec::CodecEngine::upload_codes).
    UploadCodes,
    /// [`CodecEngine::read_codes`](tether_codec::CodecEngine::read_codes), which waits.
    ReadCodes,
    /// [`CodecEngine::decode_codes`](tether_codec::CodecEngine::decode_codes).
    DecodeCodes,
    /// [`SphericalEngine::upload_frame`](tether_codec::SphericalEngine::upload_frame).
    UploadFrame,
    /// [`SphericalEngine::quantise_spherical`](tether_codec::SphericalEngine::quantise_spherical).
    QuantiseSpherical,
    /// [`SphericalEngine::dequantise_spherical`](tether_codec::SphericalEngine::dequantise_spherical).
    DequantiseSpherical,
    /// [`SphericalEngine::upload_spherical`](tether_codec::SphericalEngine::upload_spherical).
    UploadSpherical,
    /// [`SphericalEngine::read_spherical`](tether_codec::SphericalEngine::read_spherical), which waits.
    ReadSpherical,
    /// [`SphericalEngine::write_spherical`](tether_codec::SphericalEngine::write_spherical), of one pool or two.
    WriteSpherical,
    /// [`SphericalEngine::decode_spherical`](tether_codec::SphericalEngine::decode_spherical).
    DecodeSpherical,
}

impl Call {
    /// Whether the caller waits for the device in it.
    pub const fn waits(self) -> bool {
        matches!(self, Self::Wait | Self::ReadIndices | Self::ReadCodes | Self::ReadSpherical)
    }
}
