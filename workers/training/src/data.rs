//! What the trainers read, batch by batch: labelled images, pictures of the input gate, images with texts, and samples of the language model as ids.

mod augmentation;
pub mod batch_loader;
mod gate_drawings;
pub mod gate_images;
pub mod gate_pictures;
mod gate_views;
pub mod image_text_pairs;
pub mod labelled_images;
pub(crate) mod pixels;
pub mod sample_form;
pub(crate) mod table_check;
pub mod tokenized_dataset;
pub mod tokenized_sample;
