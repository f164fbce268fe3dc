"""What was saved is what runs, adapters and shards included; what is wrong with a checkpoint is said.

Every test of a bad checkpoint pins the message and looks at the folder afterwards: not a byte of it may have changed.
"""

import copy
import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, BitsAndBytesConfig, T5Config

import digsite
from architectures import CONFIGS, randomised
from byte_tokenizer import CHATML, N_IDS, byte_tokenizer
from digsite._core.errors import BadInput, LoadError, NotFinite, Unsupported
from digsite.models.tokens import Turn

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])


def tiny_llama():
    config = CONFIGS["llama"]()
    config.vocab_size = N_IDS
    return randomised(config)


@pytest.fixture(scope="module")
def hf():
    return tiny_llama()


@pytest.fixture
def folder(hf, tmp_path):
    hf.save_pretrained(tmp_path / "model")
    byte_tokenizer(template=CHATML).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def logits(model):
    return model.run(IDS).logits


# -- what was saved is what runs -----------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shards", ["1GB", "50KB"])
def test_a_saved_model_runs_to_the_bit_in_its_own_dtype(hf, tmp_path, dtype, shards):
    copy.deepcopy(hf).to(dtype).save_pretrained(tmp_path, max_shard_size=shards)
    assert len(list(tmp_path.glob("*.safetensors"))) == (1 if shards == "1GB" else pytest.approx(8, abs=4))
    model = digsite.load(tmp_path)
    alone = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert model.dtype is alone.dtype is dtype
    with torch.no_grad():
        assert torch.equal(logits(model), alone(IDS).logits)


def test_another_dtype_on_request(folder):
    assert digsite.load(folder, dtype="bfloat16").dtype is torch.bfloat16
    assert digsite.load(folder, dtype=torch.float16).run(IDS).logits.dtype is torch.float16


def test_a_live_model_stays_what_and_where_it_was(hf):
    before = {name: (value.data_ptr(), value._version) for name, value in hf.named_parameters()}
    model = digsite.load(hf)
    model.run(IDS, read="layers.*.attn.pattern", edits=[digsite.scale("layers.0.mlp.out", 0.0)])
    assert model.hf is hf
    assert before == {name: (value.data_ptr(), value._version) for name, value in hf.named_parameters()}
    assert not any("forward" in vars(module) or module._forward_hooks for module in hf.modules())


def test_a_model_that_is_sharded_over_devices(hf, folder):
    """A layer that stays on the disk until it is needed stands for a second device."""
    places = dict.fromkeys(["model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head"], "cpu")
    del places["model.layers"]
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "cpu"}
    model = digsite.load(folder, device=places)
    assert {parameter.device.type for parameter in model.hf.parameters()} == {"cpu", "meta"}
    sites = ["layers.*.resid_post", "layers.1.attn.pattern", "layers.1.attn.q_in"]
    ours, whole = (one.run(IDS, read=sites) for one in (model, digsite.load(hf)))
    assert torch.equal(ours.logits, whole.logits)
    assert all(torch.equal(ours[site], whole[site]) for site in sites)
    edited = [
        one.run(IDS, edits=[digsite.scale("layers.1.attn.z[2]", 3.0)]).logits for one in (model, digsite.load(hf))
    ]
    assert torch.equal(*edited)


def test_a_saved_chat_template(folder):
    model = digsite.load(folder)
    tokens = model.chat([{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}])
    assert tokens.turns is not None
    assert [turn.role for turn in tokens.turns[0]] == ["system", "user"]
    turn: Turn = tokens.turns[0][1]
    assert "".join(tokens.strings[0][turn.start : turn.stop]).strip().endswith("hi<|im_end|>")
    assert model.run(tokens).logits.shape[:2] == tokens.ids.shape


def test_a_model_without_a_tokenizer_reads_ids_and_says_so(hf, tmp_path):
    hf.save_pretrained(tmp_path)
    model = digsite.load(tmp_path)
    assert logits(model).shape == (2, 5, N_IDS)
    with pytest.raises(BadInput, match="tokenizer"):
        model.tokens(["ab"])


# -- adapters ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def adapted(hf):
    torch.manual_seed(0)
    parts = ["q_proj", "v_proj", "down_proj"]
    how = peft.LoraConfig(r=4, target_modules=parts, init_lora_weights=False, task_type="CAUSAL_LM")
    return peft.get_peft_model(copy.deepcopy(hf), how).eval()


@pytest.fixture
def adapter(adapted, tmp_path):
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("live", [True, False])
def test_an_adapter_is_on_unless_a_run_switches_it_off(hf, adapted, folder, adapter, live):
    model = digsite.load(adapted) if live else digsite.load(folder, adapter=adapter)
    with torch.no_grad():
        wanted, base = adapted(IDS).logits, hf(IDS).logits
    assert torch.equal(logits(model), wanted)
    off = model.run(IDS, read="layers.1.attn.q", adapters=False)
    assert torch.equal(off.logits, base)
    assert torch.equal(off["layers.1.attn.q"], digsite.load(hf).run(IDS, read="layers.1.attn.q")["layers.1.attn.q"])
    assert torch.equal(logits(model), wanted), "it is on again"
    assert torch.equal(written(model), written(digsite.load(adapted)))
    assert torch.equal(written(model, adapters=False), written(digsite.load(hf)))


def written(model, **how):
    return model.generate(IDS, max_new_tokens=6, stop_at=None, **how).tokens.ids


def test_weights_are_those_of_the_adapted_model(folder, adapter):
    model = digsite.load(folder, adapter=adapter)
    run = model.run(IDS, read=["layers.0.attn.norm", "layers.0.attn.q"])
    made = torch.einsum("bsd,ndh->bsnh", run["layers.0.attn.norm"], model.weights.W_Q[0])
    torch.testing.assert_close(made, run["layers.0.attn.q"])


def of_other_parts(*parts):
    def change(adapter):
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "target_modules": list(parts)}))

    return change


def cut(name, size):
    def change(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[:size])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_other_parts("nowhere"), r"does not fit LlamaForCausalLM.*\n.*nowhere"),
        (of_other_parts("q_proj"), r"does not fit LlamaForCausalLM.\nFound: 12 unused: .*down_proj.lora_A"),
        (of_other_parts("q_proj", "v_proj", "down_proj", "up_proj"), r"Found: 6 missing: .*up_proj.lora_A"),
        (cut("adapter_model.safetensors", 3000), r"does not fit LlamaForCausalLM.*\n.*not fully covered"),
        (shutil.rmtree, "does not fit LlamaForCausalLM"),
    ],
    ids=["no such module", "unused keys", "missing keys", "cut off", "no folder"],
)
def test_an_adapter_that_does_not_fit_is_refused(folder, adapter, change, message):
    change(adapter)
    with pytest.raises(LoadError, match=message):
        digsite.load(folder, adapter=adapter)


def test_virtual_tokens_are_refused(hf):
    prompted = peft.get_peft_model(
        copy.deepcopy(hf), peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    ).eval()
    with pytest.raises(Unsupported, match=r"prompt-tuned.*\n.*virtual tokens"):
        digsite.load(prompted)


# -- bad checkpoints -----------------------------------------------------------------------------------------------
def weights(change):
    def rewrite(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return rewrite


def put(name, value):
    return lambda tensors: tensors[name].view(-1)[3:4].fill_(value)


def pickled(folder):
    path = folder / "model.safetensors"
    torch.save(load_file(path), folder / "pytorch_model.bin")  # noqa: TID251 - what must be refused
    path.unlink()


def in_shards(change):
    def resave(folder):
        tiny_llama().save_pretrained(folder, max_shard_size="50KB")
        (folder / "model.safetensors").unlink(missing_ok=True)
        change(folder)

    return resave


def config(**fields):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


Q = "model.layers.1.self_attn.q_proj.weight"
BAD = {
    "cut off": (
        cut("model.safetensors", 200_000),
        LoadError,
        r"model.safetensors is broken or cut off.\nFound: 200000",
    ),
    "cut in its header": (cut("model.safetensors", 40), LoadError, "model.safetensors is broken or cut off"),
    "empty": (cut("model.safetensors", 0), LoadError, r"is broken or cut off.\nFound: 0 bytes"),
    "a key missing": (weights(lambda all: all.pop(Q)), LoadError, f"do not fit its config.\nFound: 1 missing: {Q}"),
    "a key unused": (
        weights(lambda all: all.update({"model.layers.9.extra": torch.ones(3)})),
        LoadError,
        "Found: 1 unused: model.layers.9.extra",
    ),
    "a key of another shape": (
        weights(lambda all: all.update({Q: torch.ones(3, 3)})),
        LoadError,
        "self_attn.q_proj.weight|mismatch",
    ),
    "NaN": (weights(put(Q, float("nan"))), NotFinite, f"hold NaN or infinity.\nFound: in 1 tensors: {Q}"),
    "infinity": (weights(put("model.norm.weight", float("-inf"))), NotFinite, "in 1 tensors: model.norm.weight"),
    "pickled": (pickled, LoadError, r"holds pickled weights only.\nFound: pytorch_model.bin.\n.*safetensors"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), LoadError, "holds no weights"),
    "no config": (lambda folder: (folder / "config.json").unlink(), LoadError, "is not a model folder"),
    "a broken config": (cut("config.json", 30), LoadError, r"cannot be loaded here|not a valid JSON"),
    "a shard missing": (
        in_shards(lambda folder: (folder / sorted(p.name for p in folder.glob("*.safetensors"))[2]).unlink()),
        LoadError,
        "is incomplete.\nFound: no model-00003-of-",
    ),
    "a broken index": (
        in_shards(cut("model.safetensors.index.json", 100)),
        LoadError,
        "model.safetensors.index.json is broken",
    ),
    "code of its own": (
        config(model_type="strange", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}),
        LoadError,
        "custom code",
    ),
    "a broken tokenizer": (cut("tokenizer.json", 500), LoadError, "The tokenizer of .* cannot be read"),
}


@pytest.mark.parametrize(("damage", "error", "message"), BAD.values(), ids=BAD)
def test_what_is_wrong_with_a_checkpoint_is_said_and_nothing_is_touched(folder, damage, error, message):
    damage(folder)
    before = contents(folder)
    with pytest.raises(error, match=message):
        digsite.load(folder)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digsite/tinyword", r"no built-in model digsite/tinyword.\nPossible: did you mean digsite/tinyworld\?"),
        ("./nowhere", "There is no folder ./nowhere"),
        ("nobody/nothing", "There is no model nobody/nothing that can be loaded here"),
    ],
)
def test_names_of_nothing(name, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LoadError, match=message):
        digsite.load(name)


def test_models_of_another_kind(tmp_path):
    encoder = BertConfig(
        hidden_size=32, num_attention_heads=2, intermediate_size=32, vocab_size=50, num_hidden_layers=2
    )
    with pytest.raises(LoadError, match="BertModel is not laid out like an architecture that digsite knows"):
        digsite.load(AutoModel.from_config(encoder).eval())
    both = T5Config(d_model=32, d_kv=8, num_heads=2, d_ff=32, num_layers=2, vocab_size=50)
    AutoModel.from_config(both).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="T5Config"):
        digsite.load(tmp_path)


# -- arguments -----------------------------------------------------------------------------------------------------
def test_arguments_that_cannot_be(hf, folder):
    with pytest.raises(BadInput, match=r"attention='flash' is not served.\nPossible: .*eager, sdpa"):
        digsite.load(folder, attention="flash")
    with pytest.raises(BadInput, match="A live model is used as it is, so dtype, device cannot be given"):
        digsite.load(hf, dtype="bfloat16", device="cpu")
    with pytest.raises(LoadError, match=r"cannot be put on .*\n.*\n.*device=\"cpu\""):
        digsite.load(folder, device="cuda:99")
    with pytest.raises(BadInput, match=r"training mode.\n.*dropout.*\nDo: call .eval\(\)"):
        digsite.load(copy.deepcopy(hf).train())


def test_quantisation_where_the_hardware_or_its_library_is_missing(folder):
    with pytest.raises(Unsupported, match=r"cannot be loaded here.\nFound: .*bitsandbytes"):
        digsite.load(folder, quantization=BitsAndBytesConfig(load_in_8bit=True))
