"""Every mark of v-prediction in use is understood, and the most trustworthy one decides."""

from pathlib import Path

import pytest

from illustrious.catalog.prediction import Prediction, PredictionType, Sure, prediction

FILE = Path("model.safetensors")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"v_pred"}, Prediction(type="v_prediction", sure="certain")),
        ({"v_pred", "ztsnr"}, Prediction(type="v_prediction", zero_snr=True, sure="certain")),
        ({"edm_mean", "edm_std"}, Prediction(type="edm", sure="certain")),
        ({"edm_vpred.sigma_max", "v_pred"}, Prediction(type="edm_v", sure="certain")),
        ({"ztsnr"}, Prediction()),
        (set(), Prediction()),
    ],
)
def test_empty_tensors_are_marks(names: set[str], expected: Prediction) -> None:
    assert prediction(names, {}, FILE) == expected


@pytest.mark.parametrize(
    ("metadata", "kind", "zero_snr"),
    [
        ({"modelspec.prediction_type": "v"}, "v_prediction", False),
        ({"modelspec.prediction_type": "epsilon"}, "epsilon", False),
        ({"modelspec.predict_key": "v"}, "v_prediction", False),
        ({"ss_v_parameterization": "True"}, "v_prediction", False),
        ({"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, "v_prediction", True),
        ({"ss_v_parameterization": "False", "ss_zero_terminal_snr": "True"}, "epsilon", False),
        ({"modelspec.prediction_type": "v", "ss_zero_terminal_snr": "true"}, "v_prediction", True),
    ],
)
def test_metadata_of_modelspec_and_kohya_is_understood(
    metadata: dict[str, str], kind: PredictionType, zero_snr: bool
) -> None:
    assert prediction(set(), metadata, FILE) == Prediction(type=kind, zero_snr=zero_snr, sure="certain")


@pytest.mark.parametrize(
    ("text", "kind", "zero_snr"),
    [
        ("model:\n  params:\n    parameterization: v\n", "v_prediction", False),
        ('model:\n  params:\n    parameterization: "v"\n    zero_terminal_snr: true\n', "v_prediction", True),
        ("model:\n  params:\n    parameterization: eps\n", "epsilon", False),
    ],
)
def test_a_yaml_file_of_the_same_name_is_read(tmp_path: Path, text: str, kind: PredictionType, zero_snr: bool) -> None:
    (tmp_path / "model.yaml").write_text(text)
    found = prediction(set(), {}, tmp_path / "model.safetensors")
    assert found == Prediction(type=kind, zero_snr=zero_snr, sure="likely")


def test_a_yaml_file_without_a_word_about_it_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("model:\n  params:\n    something: else\n")
    assert prediction(set(), {}, tmp_path / "model.safetensors") == Prediction()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("noobaiXLNAIXL_vPred10Version", "v_prediction"),
        ("my-v-pred-mix", "v_prediction"),
        ("mix_V_PRED", "v_prediction"),
        ("noobaiXLNAIXL_epsilonPred11Version", "epsilon"),
        ("vivid", "epsilon"),
    ],
)
def test_else_the_name_hints(name: str, kind: PredictionType) -> None:
    found = prediction(set(), {}, Path(f"{name}.safetensors"))
    assert (found.type, found.sure) == (kind, "guess")
    assert found.zero_snr == (kind == "v_prediction")


def test_the_most_trustworthy_mark_decides(tmp_path: Path) -> None:
    file = tmp_path / "x-vpred.safetensors"
    (tmp_path / "x-vpred.yaml").write_text("parameterization: eps")
    said: list[Sure] = []
    for names, metadata in (({"v_pred"}, {"modelspec.prediction_type": "epsilon"}), (set(), {})):
        said.append(prediction(names, metadata, file).sure)
    assert prediction({"v_pred"}, {"modelspec.prediction_type": "epsilon"}, file).type == "v_prediction"
    assert prediction(set(), {"modelspec.prediction_type": "v"}, file).type == "v_prediction"
    assert prediction(set(), {}, file).type == "epsilon"
    assert said == ["certain", "likely"]
