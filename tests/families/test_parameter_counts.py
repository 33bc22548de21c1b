"""The presets have the published numbers of parameters, counted on the meta device: a tied matrix once."""

import math
import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers.pytorch_utils import Conv1D

from tfkit.families import PRESETS
from tfkit.hub.config_json import to_config_json
from tfkit.model.config import ModelConfig
from tfkit.model.transformer import Transformer, parameter_shapes
from tfkit.training.flops import ForwardShape, forward_flops

# A row a family. The paper of 2017 says 65 and 213 million, and rounds the vocabulary: with V = 37,000 these are
# V (dim + 1) + 6 (28 dim^2 + 32 dim). That of GPT-3 rounds, too: these are (50257 + 2048) dim + layers (12 dim^2 + 13 dim) + 2 dim.
# BART and mBART have the bias of the logits, which transformers does not count.
_PUBLISHED = """
transformer-2017-base 63_119_496  transformer-2017-big 214_282_376
gpt 116_534_784
bert-tiny 4_433_468  bert-mini 11_267_900  bert-small 29_058_876  bert-medium 41_668_412  bert-base 110_106_428  bert-large 336_226_108
bert-base-cased 108_932_934  bert-large-cased 334_661_958
gpt2 124_439_808  gpt2-medium 354_823_168  gpt2-large 774_030_080  gpt2-xl 1_557_611_200
gpt3-125m 125_226_240  gpt3-350m 355_871_744  gpt3-760m 760_300_032  gpt3-1.3b 1_315_723_264  gpt3-2.7b 2_651_553_280
gpt3-6.7b 6_658_404_352  gpt3-13b 12_853_386_240  gpt3-175b 174_604_259_328
t5-small 60_506_624  t5-base 222_903_552  t5-large 737_668_096  t5-3b 2_851_598_336  t5-11b 11_307_321_344
t5-v1.1-small 76_961_152  t5-v1.1-base 247_577_856  t5-v1.1-large 783_150_080  t5-v1.1-xl 2_849_757_184  t5-v1.1-xxl 11_135_332_352
distilbert-base 66_985_530  distilbert-base-cased 65_812_036  distilbert-base-multilingual-cased 135_445_755
llama-7b 6_738_415_616  llama-13b 13_015_864_320  llama-33b 32_528_943_616  llama-65b 65_285_660_672
llama2-7b 6_738_415_616  llama2-13b 13_015_864_320  llama2-70b 68_976_648_192
llama3-8b 8_030_261_248  llama3-70b 70_553_706_496
llama3.1-8b 8_030_261_248  llama3.1-70b 70_553_706_496  llama3.1-405b 405_853_388_800
llama3.2-1b 1_235_814_400  llama3.2-3b 3_212_749_824
mistral-7b-v0.1 7_241_732_096  mistral-7b-v0.2 7_241_732_096  mistral-7b-v0.3 7_248_023_552
gemma2-2b 2_614_341_888  gemma2-9b 9_241_705_984  gemma2-27b 27_227_128_320
smollm2-135m 134_515_008  smollm2-360m 361_821_120  smollm2-1.7b 1_711_376_384
qwen2-0.5b 494_032_768  qwen2-1.5b 1_543_714_304  qwen2-7b 7_615_616_512  qwen2-72b 72_706_203_648
qwen2.5-0.5b 494_032_768  qwen2.5-1.5b 1_543_714_304  qwen2.5-3b 3_085_938_688  qwen2.5-7b 7_615_616_512  qwen2.5-14b 14_770_033_664
qwen2.5-32b 32_763_876_352  qwen2.5-72b 72_706_203_648
qwen3-0.6b 596_049_920  qwen3-1.7b 1_720_574_976  qwen3-4b 4_022_468_096  qwen3-8b 8_190_735_360  qwen3-14b 14_768_307_200
qwen3-32b 32_762_123_264
gemma-2b 2_506_172_416  gemma-7b 8_537_680_896
gemma3-270m 268_098_176  gemma3-1b 999_885_952  gemma3-4b 3_880_263_168  gemma3-12b 11_766_034_176  gemma3-27b 27_009_346_304
smollm3-3b 3_075_098_624
olmo2-1b 1_484_916_736  olmo2-7b 7_298_617_344  olmo2-13b 13_716_198_400  olmo2-32b 32_234_279_936
olmo3-7b 7_298_011_136  olmo3-32b 32_233_522_176
phi3-mini-4k 3_821_079_552  phi3-medium-4k 13_960_238_080
phi4-14b 14_659_507_200
mixtral-8x7b 46_702_792_704  mixtral-8x22b 140_620_634_112
olmoe-1b-7b 6_919_161_856
qwen3-moe-30b-a3b 30_532_122_624  qwen3-moe-235b-a22b 235_093_634_560
pythia-14m 14_067_712  pythia-31m 30_494_720  pythia-70m 70_426_624  pythia-160m 162_322_944  pythia-410m 405_334_016
pythia-1b 1_011_781_632  pythia-1.4b 1_414_647_808  pythia-2.8b 2_775_208_960  pythia-6.9b 6_857_302_016  pythia-12b 11_846_072_320
opt-125m 125_239_296  opt-1.3b 1_315_758_080  opt-2.7b 2_651_596_800  opt-6.7b 6_658_473_984  opt-13b 12_853_473_280
opt-30b 29_974_540_288  opt-66b 65_719_701_504
roberta-base 124_697_433  roberta-large 355_412_057
xlm-roberta-base 278_295_186  xlm-roberta-large 560_142_482
camembert-base 110_655_493  camembert-large 336_695_557
electra-small 13_546_682  electra-base 109_514_298  electra-large 335_174_458  electra-small-generator 13_546_682
electra-base-generator 33_740_602  electra-large-generator 51_295_290
mpnet-base 109_518_527
bart-base 139_470_681  bart-large 406_341_721
mbart-large-cc25 611_101_867  mbart-large-50 611_129_542
mt5-small 300_176_768  mt5-base 582_401_280  mt5-large 1_229_581_312  mt5-xl 3_742_619_648  mt5-xxl 12_921_057_280
flan-t5-small 76_961_152  flan-t5-base 247_577_856  flan-t5-large 783_150_080  flan-t5-xl 2_849_757_184  flan-t5-xxl 11_135_332_352
byt5-small 299_637_760  byt5-base 581_653_248  byt5-large 1_228_183_552  byt5-xl 3_737_801_728  byt5-xxl 12_906_899_328
deberta-v3-xsmall 70_958_820
deberta-v3-small 142_024_548  deberta-v3-base 184_551_780  deberta-v3-large 435_191_908  deberta-v3-base-multilingual 279_061_880
modernbert-base 149_655_232  modernbert-large 395_881_664
"""
# The published figures for these are those of the part up to the hidden states, with the pooler where there is one.
_PUBLISHED_WITHOUT_HEADS = """
bert-tiny 4_385_920  bert-mini 11_170_560  bert-small 28_763_648  bert-medium 41_373_184  bert-base 109_482_240  bert-large 335_141_888
bert-base-cased 108_310_272  bert-large-cased 333_579_264
distilbert-base 66_362_880  distilbert-base-cased 65_190_912  distilbert-base-multilingual-cased 134_734_080
"""
PUBLISHED, WITHOUT_HEADS = (
    {name: int(count) for name, count in re.findall(r"(\S+) ([\d_]+)", text)} for text in (_PUBLISHED, _PUBLISHED_WITHOUT_HEADS)
)


def test_every_preset_is_in_the_table() -> None:
    assert PRESETS.keys() == PUBLISHED.keys()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_count(preset: str) -> None:
    shapes = parameter_shapes(ModelConfig.model_validate(PRESETS[preset][1]))
    assert sum(map(math.prod, shapes.values())) == PUBLISHED[preset]


@pytest.mark.parametrize("preset", WITHOUT_HEADS)
def test_published_count_without_heads(preset: str) -> None:
    family, values = PRESETS[preset]
    shapes = parameter_shapes(ModelConfig.model_validate(values | {"head": {"kind": "none", "pooler": family.name == "bert"}}))
    assert sum(map(math.prod, shapes.values())) == WITHOUT_HEADS[preset]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("preset", [name for name, (family, _) in PRESETS.items() if family.model_type])  # transformers has no GPT-3
def test_transformers_has_as_many_and_multiplies_a_token_by_as_many(preset: str) -> None:
    """With two blocks. A token of a mixture of experts is multiplied by as many experts as compute it; two of DeBERTa's matrices of each
    block multiply the vectors of all distances, too.
    """
    family, values = PRESETS[preset]
    layers = {name: 2 for name in ("encoder_layers", "decoder_layers") if values.get(name)}
    head = values["head"] | ({"next_sentence": False} if family.name == "bert" else {})
    config = ModelConfig.model_validate(values | layers | {"head": head})
    kind = AutoModelForMaskedLM if not config.decoder_layers else AutoModelForSeq2SeqLM if config.encoder_layers else AutoModelForCausalLM
    with torch.device("meta"):
        ours, theirs = Transformer(config), kind.from_config(AutoConfig.for_model(**{"pad_token_id": 1} | to_config_json(family, config)))
    if config.encoder_layers and head["tied"]:  # transformers 5 ties all others
        theirs_have = sum(parameter.numel() for parameter in theirs.parameters() if parameter.requires_grad)  # not Marian's sinusoids
        theirs_have += sum(buffer.numel() for name, buffer in theirs.named_buffers() if name == "final_logits_bias")
        assert theirs_have == sum(parameter.numel() for parameter in ours.parameters())
    matrices = sum(module.weight.numel() for module in theirs.modules() if isinstance(module, torch.nn.Linear | Conv1D))
    distances = 2 * config.position.buckets if config.position.kind == "disentangled" else 0
    for name, parameter in theirs.named_parameters():
        if name.endswith(("query_proj.weight", "key_proj.weight")):
            matrices += distances * parameter.numel()
        if name.endswith(("mlp.experts.gate_up_proj", "mlp.experts.down_proj")):
            matrices += parameter.numel() * config.mlp.experts.active // config.mlp.experts.count
        elif name.endswith("mlp.gate.weight"):  # of a router, which is no Linear there
            matrices += parameter.numel()
    targets = 1 if config.encoder_layers and config.decoder_layers else 0
    flops = forward_flops(ours, ForwardShape(rows=1, length=1, decoder_length=targets, states=1))
    assert flops.blocks + flops.head == 2 * matrices
