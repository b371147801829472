"""A small BERT in a folder, as `save_pretrained` writes it: frozen, fine-tuned, and asked again from its run."""

import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from lab import runs, train
from lab.build import build_task, read_data
from lab.data.text import emoji_names
from lab.engine.config.compose import compose_config
from lab.engine.errors import UserError
from lab.verbs.predict import main as predict

SPECIAL = ["[PAD]", *(f"[unused{i}]" for i in range(5)), "[UNK]", "[CLS]", "[SEP]"]  # as BERT's are, but fewer


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: lab[pretrained]")
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    names = [name for names in list(emoji_names().values())[:40] for name in names.values()]
    tokenizer.train_from_iterator(
        names, trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 8), ("[CLS]", 7))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    settings = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=32, pad_token_id=0, **sizes
    )
    transformers.BertModel(settings).save_pretrained(folder)
    return folder


def words(bert, *more):
    own = (f"data.tokenizer={bert}", "data.max_length=32", "net=sentence_encoder", "trainer.max_epochs=1")
    return ("experiment=sentiment", "data.tiny=true", *own, *more)


def weights(bert):
    from safetensors.torch import load_file

    return load_file(bert / "model.safetensors")


@pytest.mark.parametrize("frozen", [True, False])
def test_it_is_frozen_or_fine_tuned_and_asked_without_its_weights(trained, bert, frozen, tmp_path):
    place = shutil.copytree(bert, tmp_path / "bert")
    folder = trained(*words(place, f"net.frozen={frozen}"))
    shutil.rmtree(place)
    _, data, task = runs.load(folder)
    own, now = weights(bert), dict(task.net.encoder.named_parameters())
    assert {name: now[name].equal(value) for name, value in own.items() if name in now}.items() >= {
        ("embeddings.word_embeddings.weight", frozen),
        ("encoder.layer.0.output.dense.weight", frozen),
    }
    task.train()
    task.net(torch.tensor([[7, 9, 8]]))
    assert task.net.encoder.training is not frozen
    tokens = data.facts.features["text"].tokens
    first, *_, unknown, end = tokens.pieces(tokens.encode(["dog ☺"])[0])
    assert (first, unknown, end) == ("[CLS]", "□", "⏎")
    assert tokens.decode(tokens.encode(["dog face"])) == ["dog face"]
    (tmp_path / "texts").write_text("dog face\n\n")
    output = tmp_path / "out.csv"
    predict.main(compose_config("predict", [f"run={folder}", f"input={tmp_path}/texts", f"output={output}"]))
    assert len(output.read_text().splitlines()) == 3


def test_padding_changes_no_answer(compose, bert):
    cfg = compose(*words(bert))
    net = build_task(cfg, read_data(cfg).facts).net.eval()
    token = torch.tensor([[7, 9, 30, 41, 8]])
    torch.testing.assert_close(net(torch.nn.functional.pad(token, (0, 4))), net(token))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.tokenizer=null", "net: expected an encoder: set data.tokenizer"),
        ("data.max_length=33", "reads 32 tokens: data.max_length is to be no more"),
        ("data.tokenizer=/nowhere", r"data.tokenizer=/nowhere: no folder with a tokenizer.json"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(compose, bert, override, said):
    with pytest.raises(UserError, match=said):
        train.main(compose(*words(bert), override))


def test_a_tokenizer_of_another_kind_is_refused(compose, bert, tmp_path):
    content = json.loads((bert / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["[PAD]"], vocabulary["[UNK]"] = vocabulary["[UNK]"], 0
    content["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="token 0 is not padding"):
        train.main(compose(*words(bert), f"data.tokenizer={tmp_path}"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocab_size": 10}, "the encoder has 10 tokens, but its tokenizer"),
        ({"is_encoder_decoder": True}, "bert is not an encoder: it has a decoder"),
        ({"model_type": "brt"}, "net: transformers does not accept its config.json"),
    ],
)
def test_an_encoder_that_does_not_fit_is_said_in_a_line(compose, bert, tmp_path, change, said):
    settings = json.loads((bert / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | change))
    shutil.copy(bert / "tokenizer.json", tmp_path)
    with pytest.raises(UserError, match=said):
        train.main(compose(*words(bert), f"data.tokenizer={tmp_path}"))
