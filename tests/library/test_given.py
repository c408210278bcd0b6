"""What is handed in, before anything runs: every form of it is the same job."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields

import datasets
import pytest
from in_memory import TEXTS, small_net, small_tokenizer

from tta_bench import Method
from tta_bench.contract.method_spec import MethodSpec
from tta_bench.contract.registry import load
from tta_bench.documents import tokenized
from tta_bench.documents.memory import held_documents
from tta_bench.engine.protocol import Protocol
from tta_bench.errors import MethodError
from tta_bench.evaluation.suite import Suite
from tta_bench.library.given import chosen_methods, named_documents, named_model
from tta_bench.library.options import Options, Schedule, suite_of
from tta_bench.model.load import load_model, load_tokenizer
from tta_bench.training.recipe import Schedule as RecipeSchedule


def test_every_field_of_suite_protocol_and_schedule_is_an_option():
    of_protocol = {field.name for field in fields(Protocol)} - {"name"} | {"protocol"}
    of_suite = {field.name for field in fields(Suite)}
    handed_in = {"models", "datasets", "methods", "protocol", "tokenizer"}
    handed_in |= {"description", "words", "elsewhere", "tune"}  # what a file alone says
    assert set(Options.__annotations__) == (of_suite - handed_in) | of_protocol
    assert set(Schedule.__annotations__) == {field.name for field in fields(RecipeSchedule)}


def test_options_are_those_of_the_flags():
    options = {"lanes": 2, "prefix": 5, "context": 64, "chunk": 32, "min_tokens": 9}
    suite = suite_of(options, "builtin:tiny", "builtin:pydoc", ["none"])
    assert (suite.lanes, suite.min_tokens) == ("2", 9)
    protocol = suite.resolved_protocol()
    assert (protocol.prefix, protocol.context_mode, protocol.chunk) == ("5", "recompute", 32)
    defaults = suite_of({}, "builtin:tiny", "builtin:pydoc", ["none"])
    assert defaults == Suite(datasets=["builtin:pydoc"])
    other = suite_of({"protocol": "lm-eval", "window": 64}, "m", "d", ["none"])
    assert other.resolved_protocol().name == "lm-eval"


def test_a_spec_a_class_and_its_params_are_one_method():
    cls = load("dynamic-eval")
    specs = []
    for form in ("dynamic-eval:lr=0.25", cls.Params(lr=0.25), [cls.Params(lr=0.25)]):
        with chosen_methods(form) as choices:
            specs += [MethodSpec.of(choice) for choice in choices]
    assert len(specs) == 3
    assert all(spec == specs[0] and spec.params == specs[0].params for spec in specs)
    with chosen_methods(cls) as (choice,):
        assert choice.spec == "dynamic-eval"


TABLES = {
    "list": list(TEXTS.values()),
    "tuple": tuple(TEXTS.values()),
    "mapping": TEXTS,
    "dataset": datasets.Dataset.from_dict({"text": list(TEXTS.values())}),
    "column": datasets.Dataset.from_dict({"text": list(TEXTS.values())})["text"],
}


@pytest.fixture
def read(tmp_path):
    def fingerprint(documents):
        with held_documents(documents) as name:
            found = tokenized(name, small_tokenizer(), cache_dir=tmp_path)
            return name, found.fingerprint, [document.key for document in found]

    return fingerprint


def test_every_form_of_documents_holds_the_same_texts(read):
    found = {form: read(table) for form, table in TABLES.items()}
    assert len({fingerprint for _, fingerprint, _ in found.values()}) == 1
    assert found["mapping"][2] == list(TEXTS)
    others = [found[form] for form in TABLES if form != "mapping"]
    assert all(other == others[0] for other in others)
    assert others[0][2] == ["document:1", "document:2"]
    assert found["mapping"][0] != others[0][0]  # other keys are other documents


def test_a_name_is_gone_with_its_block():
    with (
        named_documents(["a text"]) as documents,
        named_model(small_net(), small_tokenizer()) as model,
    ):
        assert load_tokenizer(model).bos_token == "<s>"
        with named_documents(["a text"]) as again:
            assert again == documents
        assert list(tokenized(documents, small_tokenizer()))
    for name, function in ((model, load_model), (documents, load_documents)):
        with pytest.raises(Exception, match=r"in the memory of a Python session"):
            function(name)


def load_documents(name):
    return tokenized(name, small_tokenizer())


def test_a_class_of_the_users_own_is_told_by_its_source():
    net = small_net()
    net.model.norm.__class__ = type("Made", (type(net.model.norm),), {"__module__": __name__})
    with (
        pytest.raises(Exception, match="the source of the model's class Made cannot be read"),
        named_model(net, small_tokenizer()),
    ):
        pass
    net.model.norm.__class__ = Norm
    with named_model(net, small_tokenizer()) as name:
        assert len(load_model(name).provenance["classes_sha256"]) == 64


class Norm(type(small_net().model.norm)):
    pass


def test_two_classes_of_one_name_are_told_apart():
    def made(gain):
        class Twin(Method):
            @dataclass
            class Params:
                rate: float = gain

            def score(self, window):
                return self.below.score(window)

        return Twin

    with (
        pytest.raises(Exception, match=r"two classes are called 'twin'; give one another name"),
        chosen_methods([made(1.0), made(2.0)]),
    ):
        pass


def test_a_class_without_a_file_needs_source_that_can_be_read():
    space = {"__name__": "in_no_file"}
    sys.modules["in_no_file"] = type(sys)("in_no_file")
    try:
        exec(
            "from tta_bench import Method\nclass Bare(Method):\n  def score(self, window): pass",
            space,
        )
        with (
            pytest.raises(MethodError, match=r"the source of Bare.score cannot be read"),
            chosen_methods(space["Bare"]),
        ):
            pass
    finally:
        del sys.modules["in_no_file"]
