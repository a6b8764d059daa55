//! The tensors of each component, as a function of its configuration: names as in the published checkpoints, shapes, and
//! how random weights are drawn. One list serves the check of a bundle before any work and the writing of a random one.

use safetensors::tensor::Dtype;

use super::components::{EmbeddingComponent, FindingsComponent, LanguageComponent, ScoringComponent};
use crate::tensors::{Initialization as Init, TensorHeader, TensorSpec};
use crate::alignment::{AlignmentConfig, AlignmentTextConfig};
use crate::chexbert::ChexbertConfig;
use crate::language::LlamaConfig;
use crate::vision::VisionConfig;

/// Bottlenecks per layer of a ResNet-50.
const RESNET_BLOCKS: [usize; 4] = [3, 4, 6, 3];

/// Outputs of a bottleneck over its middle width.
const RESNET_EXPANSION: usize = 4;

/// Classes of the unused ImageNet head that image encoder files carry.
const IMAGENET_CLASSES: usize = 1000;

/// Scale of the last batch norm in each bottleneck of random weights: keeps the sum over 16 residual branches small.
const RESIDUAL_SCALE: f32 = 0.5;

/// The embedding component (`checkpoint_4.pth`).
pub fn embedding(config: &EmbeddingComponent) -> Vec<TensorSpec> {
    let mut layout = Layout::new(Dtype::F32);
    layout.image_encoder("visual_encoder", &config.vision);
    layout.alignment(&config.alignment, config.text.as_ref());
    layout.specs
}

/// The findings component (`ChexpertClassifier-*.ckpt`).
pub fn findings(config: &FindingsComponent) -> Vec<TensorSpec> {
    let (config, classes) = (&config.classifier, radialog_schemas::Finding::ALL.len());
    let pooled = config.vision.trunk_grid() / config.pool.max(1);
    let mut layout = Layout::new(Dtype::F32);
    layout.image_encoder("model.biovil_encoder", &config.vision);
    layout.linear(
        "model.fc1",
        config.vision.joint_feature_size * pooled * pooled,
        config.fc_hidden,
    );
    layout.linear("model.fc2", config.fc_hidden, classes);
    layout.unused(|layout| layout.constant("criterion.pos_weight", &[classes], 1.0));
    layout.specs
}

/// The base of the language component (LLaMA), stored as `dtype`; with the image projection where no adapter brings it.
pub fn language_base(config: &LanguageComponent, dtype: Dtype) -> Vec<TensorSpec> {
    let llama = &config.llama;
    let width = llama.hidden_size;
    let mut layout = Layout::new(dtype);
    layout.uniform("model.embed_tokens.weight", &[llama.vocab_size, width], 1.0);
    for block in (0..llama.num_hidden_layers).map(|i| format!("model.layers.{i}")) {
        for (name, inputs, outputs) in layer_matrices(llama) {
            layout.matrix(&format!("{block}.{name}.weight"), inputs, outputs);
        }
        layout.constant(&format!("{block}.input_layernorm.weight"), &[width], 1.0);
        layout.constant(
            &format!("{block}.post_attention_layernorm.weight"),
            &[width],
            1.0,
        );
    }
    layout.constant("model.norm.weight", &[width], 1.0);
    if !llama.tie_word_embeddings {
        layout.matrix("lm_head.weight", width, llama.vocab_size);
    }
    if config.lora.is_none() {
        layout.linear("model.img_proj_layer", llama.image_dim, width);
    }
    layout.specs
}

/// The adapter of the language component: LoRA and the image projection (`adapter_model.bin`). Nothing without one.
pub fn language_adapter(config: &LanguageComponent) -> Vec<TensorSpec> {
    let root = "base_model.model.model";
    let mut layout = Layout::new(Dtype::F32);
    let Some(lora) = &config.lora else {
        return layout.specs;
    };
    for i in 0..config.llama.num_hidden_layers {
        for (name, inputs, outputs) in layer_matrices(&config.llama) {
            let target = name.rsplit('.').next().unwrap_or(name);
            if lora.target_modules.iter().any(|wanted| wanted == target) {
                layout.matrix(
                    &format!("{root}.layers.{i}.{name}.lora_A.weight"),
                    inputs,
                    lora.r,
                );
                layout.matrix(
                    &format!("{root}.layers.{i}.{name}.lora_B.weight"),
                    lora.r,
                    outputs,
                );
            }
        }
    }
    layout.linear(
        &format!("{root}.img_proj_layer"),
        config.llama.image_dim,
        config.llama.hidden_size,
    );
    layout.specs
}

/// The matrices of one decoder layer: their names in it, inputs and outputs.
pub fn layer_matrices(llama: &LlamaConfig) -> [(&'static str, usize, usize); 7] {
    let (width, inner) = (llama.hidden_size, llama.intermediate_size);
    let keys = llama.kv_heads() * llama.head_dim();
    [
        ("self_attn.q_proj", width, width),
        ("self_attn.k_proj", width, keys),
        ("self_attn.v_proj", width, keys),
        ("self_attn.o_proj", width, width),
        ("mlp.gate_proj", width, inner),
        ("mlp.up_proj", width, inner),
        ("mlp.down_proj", inner, width),
    ]
}

/// The scoring component (`chexbert.pth`).
pub fn scoring(config: &ScoringComponent) -> Vec<TensorSpec> {
    let bert = &config.chexbert;
    let mut layout = Layout::new(Dtype::F32);
    layout.bert(bert);
    for (head, classes) in (0..14).map(|head| (head, if head == 13 { 2 } else { 4 })) {
        layout.linear(
            &format!("module.linear_heads.{head}"),
            bert.hidden_size,
            classes,
        );
    }
    layout.specs
}

struct Layout {
    specs: Vec<TensorSpec>,
    dtype: Dtype,
    required: bool,
}

impl Layout {
    fn new(dtype: Dtype) -> Self {
        Self {
            specs: Vec::new(),
            dtype,
            required: true,
        }
    }

    fn unused(&mut self, build: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.required, false);
        build(self);
        self.required = before;
    }

    fn push(&mut self, name: &str, shape: &[usize], dtype: Dtype, init: Init) {
        let header = TensorHeader {
            name: name.to_owned(),
            shape: shape.to_vec(),
            dtype,
        };
        self.specs.push(TensorSpec {
            header,
            init,
            required: self.required,
        });
    }

    fn uniform(&mut self, name: &str, shape: &[usize], spread: f32) {
        self.push(
            name,
            shape,
            self.dtype,
            Init::Uniform {
                centre: 0.0,
                spread,
            },
        );
    }

    fn constant(&mut self, name: &str, shape: &[usize], centre: f32) {
        self.push(
            name,
            shape,
            self.dtype,
            Init::Uniform {
                centre,
                spread: 0.0,
            },
        );
    }

    /// Unit variance in, unit variance out: a uniform value has variance spread² / 3.
    fn matrix(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.uniform(name, &[outputs, inputs], (3.0 / inputs as f32).sqrt());
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.matrix(&format!("{name}.weight"), inputs, outputs);
        self.uniform(&format!("{name}.bias"), &[outputs], 0.1);
    }

    /// A convolution whose outputs go through a ReLU, which halves their power.
    fn conv(&mut self, name: &str, inputs: usize, outputs: usize, kernel: usize) {
        let spread = (6.0 / (inputs * kernel * kernel) as f32).sqrt();
        self.uniform(
            &format!("{name}.weight"),
            &[outputs, inputs, kernel, kernel],
            spread,
        );
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.constant(&format!("{name}.weight"), &[width], 1.0);
        self.constant(&format!("{name}.bias"), &[width], 0.0);
    }

    fn batch_norm(&mut self, name: &str, width: usize, weight: f32) {
        self.constant(&format!("{name}.weight"), &[width], weight);
        self.constant(&format!("{name}.bias"), &[width], 0.0);
        self.constant(&format!("{name}.running_mean"), &[width], 0.0);
        self.constant(&format!("{name}.running_var"), &[width], 1.0);
        let count = format!("{name}.num_batches_tracked");
        self.unused(|layout| layout.push(&count, &[], Dtype::I64, Init::Counting));
    }

    fn image_encoder(&mut self, root: &str, config: &VisionConfig) {
        let width = config.vit_dim;
        let features = 8 * config.stem_width * RESNET_EXPANSION;
        self.uniform(
            &format!("{root}.encoder.missing_previous_emb"),
            &[1, width, 1, 1],
            0.5,
        );
        self.resnet(&format!("{root}.encoder.encoder"), config.stem_width);
        self.unused(|layout| {
            layout.linear(
                &format!("{root}.encoder.encoder.fc"),
                features,
                IMAGENET_CLASSES,
            )
        });
        self.conv(
            &format!("{root}.encoder.backbone_to_vit"),
            features,
            width,
            1,
        );
        let pooler = format!("{root}.encoder.vit_pooler");
        self.unused(|layout| layout.temporal_pooler(&pooler, width, config.vit_blocks));
        let projected = config.joint_feature_size;
        self.conv(
            &format!("{root}.projector.model.0"),
            2 * width,
            projected,
            1,
        );
        self.batch_norm(&format!("{root}.projector.model.1"), projected, 1.0);
        self.conv(
            &format!("{root}.projector.model.3"),
            projected,
            projected,
            1,
        );
        self.uniform(&format!("{root}.projector.model.3.bias"), &[projected], 0.1);
    }

    fn resnet(&mut self, root: &str, stem: usize) {
        self.conv(&format!("{root}.conv1"), 3, stem, 7);
        self.batch_norm(&format!("{root}.bn1"), stem, 1.0);
        let mut inputs = stem;
        for (layer, blocks) in RESNET_BLOCKS.into_iter().enumerate() {
            let middle = stem << layer;
            let outputs = middle * RESNET_EXPANSION;
            for block in 0..blocks {
                let name = format!("{root}.layer{}.{block}", layer + 1);
                self.conv(&format!("{name}.conv1"), inputs, middle, 1);
                self.batch_norm(&format!("{name}.bn1"), middle, 1.0);
                self.conv(&format!("{name}.conv2"), middle, middle, 3);
                self.batch_norm(&format!("{name}.bn2"), middle, 1.0);
                self.conv(&format!("{name}.conv3"), middle, outputs, 1);
                self.batch_norm(&format!("{name}.bn3"), outputs, RESIDUAL_SCALE);
                if block == 0 {
                    self.conv(&format!("{name}.downsample.0"), inputs, outputs, 1);
                    self.batch_norm(&format!("{name}.downsample.1"), outputs, RESIDUAL_SCALE);
                }
                inputs = outputs;
            }
        }
    }

    fn temporal_pooler(&mut self, root: &str, width: usize, blocks: usize) {
        self.uniform(&format!("{root}.type_embed"), &[2, 1, width], 0.5);
        for block in (0..blocks).map(|i| format!("{root}.blocks.{i}")) {
            self.norm(&format!("{block}.norm1"), width);
            for name in ["proj_q", "proj_k", "proj_v"] {
                self.matrix(&format!("{block}.attn.{name}.weight"), width, width);
            }
            self.linear(&format!("{block}.attn.proj"), width, width);
            self.norm(&format!("{block}.norm2"), width);
            self.linear(&format!("{block}.mlp.fc1"), width, width);
            self.linear(&format!("{block}.mlp.fc2"), width, width);
        }
        self.norm(&format!("{root}.norm_post"), width);
    }

    fn alignment(&mut self, config: &AlignmentConfig, text: Option<&AlignmentTextConfig>) {
        let width = config.hidden_size;
        self.uniform("query_tokens", &[1, config.num_query_token, width], 1.0);
        self.norm("ln_vision", config.encoder_width);
        self.norm("Qformer.bert.embeddings.LayerNorm", width);
        for i in 0..config.num_hidden_layers {
            let layer = format!("Qformer.bert.encoder.layer.{i}");
            self.attention(&format!("{layer}.attention"), width, width);
            if i % config.cross_attention_freq == 0 {
                self.attention(
                    &format!("{layer}.crossattention"),
                    width,
                    config.encoder_width,
                );
            }
            self.feed_forward(&layer, "_query", width, config.intermediate_size);
            if text.is_some() {
                self.unused(|layout| {
                    layout.feed_forward(&layer, "", width, config.intermediate_size)
                });
            }
        }
        if let Some(text) = text {
            self.unused(|layout| layout.alignment_text(width, text));
        }
    }
    fn alignment_text(&mut self, width: usize, text: &AlignmentTextConfig) {
        let (vocabulary, positions) = (text.vocab_size, text.max_position_embeddings);
        self.push(
            "Qformer.bert.embeddings.position_ids",
            &[1, positions],
            Dtype::I64,
            Init::Counting,
        );
        self.uniform(
            "Qformer.bert.embeddings.word_embeddings.weight",
            &[vocabulary, width],
            0.06,
        );
        self.uniform(
            "Qformer.bert.embeddings.position_embeddings.weight",
            &[positions, width],
            0.06,
        );
        self.uniform("Qformer.cls.predictions.bias", &[vocabulary], 0.1);
        self.linear("Qformer.cls.predictions.transform.dense", width, width);
        self.norm("Qformer.cls.predictions.transform.LayerNorm", width);
        self.linear("Qformer.cls.predictions.decoder", width, vocabulary);
        self.linear("vision_proj", width, text.embed_dim);
        self.linear("text_proj", width, text.embed_dim);
        self.linear("itm_head", width, 2);
        self.constant("temp", &[], 0.07);
    }

    fn bert(&mut self, config: &ChexbertConfig) {
        let (width, positions) = (config.hidden_size, config.max_position_embeddings);
        let root = "module.bert.embeddings";
        self.unused(|layout| {
            layout.push(
                &format!("{root}.position_ids"),
                &[1, positions],
                Dtype::I64,
                Init::Counting,
            )
        });
        self.uniform(
            &format!("{root}.word_embeddings.weight"),
            &[config.vocab_size, width],
            1.0,
        );
        self.uniform(
            &format!("{root}.position_embeddings.weight"),
            &[positions, width],
            0.1,
        );
        self.uniform(
            &format!("{root}.token_type_embeddings.weight"),
            &[2, width],
            0.1,
        );
        self.norm(&format!("{root}.LayerNorm"), width);
        for layer in (0..config.num_hidden_layers).map(|i| format!("module.bert.encoder.layer.{i}"))
        {
            self.attention(&format!("{layer}.attention"), width, width);
            self.feed_forward(&layer, "", width, config.intermediate_size);
        }
        self.unused(|layout| layout.linear("module.bert.pooler.dense", width, width));
    }

    fn attention(&mut self, root: &str, width: usize, source: usize) {
        self.linear(&format!("{root}.self.query"), width, width);
        self.linear(&format!("{root}.self.key"), source, width);
        self.linear(&format!("{root}.self.value"), source, width);
        self.linear(&format!("{root}.output.dense"), width, width);
        self.norm(&format!("{root}.output.LayerNorm"), width);
    }

    fn feed_forward(&mut self, layer: &str, suffix: &str, width: usize, inner: usize) {
        self.linear(&format!("{layer}.intermediate{suffix}.dense"), width, inner);
        self.linear(&format!("{layer}.output{suffix}.dense"), inner, width);
        self.norm(&format!("{layer}.output{suffix}.LayerNorm"), width);
    }
}

#[test]
fn same_as_before() {
    use super::{ComponentConfigs, Geometry};
    for geometry in [Geometry::Tiny, Geometry::Published] {
        let c = ComponentConfigs::of(geometry);
        assert_eq!(embedding(&c.embedding), c.embedding.tensors().unwrap());
        assert_eq!(findings(&c.findings), c.findings.tensors().unwrap());
        assert_eq!(scoring(&c.scoring), c.scoring.tensors().unwrap());
        for dtype in [Dtype::F32, Dtype::F16] {
            for lora in [true, false] {
            for tie in [true, false] {
                let mut l = c.language.clone();
                if !lora { l.lora = None; }
                l.llama.tie_word_embeddings = tie;
                assert_eq!(language_base(&l, dtype), l.base_tensors(dtype).unwrap());
                assert_eq!(language_adapter(&l), l.adapter_tensors().unwrap());
            }}
        }
    }
    let start = std::time::Instant::now();
    let c = ComponentConfigs::of(Geometry::Published);
    c.embedding.tensors().unwrap();
    eprintln!("embedding {:?}", start.elapsed());
    let start = std::time::Instant::now();
    c.language.base_tensors(Dtype::F16).unwrap();
    eprintln!("language {:?}", start.elapsed());
    let start = std::time::Instant::now();
    c.findings.tensors().unwrap();
    eprintln!("findings {:?}", start.elapsed());
    let start = std::time::Instant::now();
    c.scoring.tensors().unwrap();
    eprintln!("scoring {:?}", start.elapsed());
}

