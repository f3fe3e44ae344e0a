"""Whatever is wrong on a command line is answered in one line that says what would be right."""

import pytest

from lrexp.methods.catalog import families
from lrexp.spec.compose import compose
from lrexp.spec.errors import InputError

NAMES = {
    "method=pisa": "unknown method. Did you mean 'pissa'? Known:",
    "model=robert": "Did you mean 'roberta'?",
    "hardware=gpu": "Known: auto, cpu, cuda",
    "experiment=nope": "unknown experiment",
    "metod=lora": "Did you mean 'method'?",
    "trainin.max_steps=3": "Did you mean 'training'?",
    "learning_rate=1e-3": "Did you mean 'training.learning_rate'?",
    "lr=1e-3": "Did you mean 'training.learning_rate'?",
    "epochs=3": "Did you mean 'training.num_train_epochs'?",
    "method.rr=4": "unknown key of method=lora. Did you mean 'r'? Keys: r, lora_alpha",
    "training.max_step=4": "Did you mean 'max_steps'?",
    "partners.full=x": "unknown group",
    "defaults=[]": "unknown key",
    "method.name=pissa": "write method=pissa",
    "model.dataset=mrpc": "write dataset=mrpc",
    "tracking.name=wandb": "write tracking=wandb",
    "training={max_steps: 3}": "training.KEY=VALUE",
    "training=5": "Known: default",
    "method=null": "one must be chosen",
}
TYPES = {
    "method.r=abc": "'abc' is not a whole number",
    "method.r=8.5": "8.5 is not a whole number",
    "method.r=true": "true is not a whole number",
    "method.r=nan": "nan",
    "method.target_modules={q: 1}": "is not",
    "method.rank_pattern.q=x": "method.rank_pattern.q: 'x' is not a whole number",
    "training.learning_rate=nan": "nan is not a finite number",
    "training.learning_rate=inf": "inf is not a finite number",
    "training.group_by_length=1": "1 is not true or false",
    "training.lr_scheduler_type=cosin": "did you mean 'cosine'?",
    "hardware.precision=fp16": "is not one of float32",
    "optimizer.betas=[0.9,x]": "optimizer.betas[1]: 'x' is not a number",
    "seed=1.5": "1.5 is not a whole number",
}
RANGES = {
    "training.learning_rate=0": "it is above 0",
    "training.num_train_epochs=-1": "it is above 0",
    "training.max_steps=-1": "it is at least 0",
    "training.max_steps=99999999999999999999": "it is at most",
    "training.max_tokens=0": "it lies in [1,",
    "training.per_device_train_batch_size=0": "it is at least 1",
    "training.gradient_accumulation_steps=0": "it is at least 1",
    "training.save_steps=0": "it is at least 1",
    "training.warmup_ratio=1": "it lies in [0, 1)",
    "training.selection_metric=f1": "training.selection=best",
    "training.per_layer_updates=true": "set training.max_grad_norm=null",
    "hardware.threads=0": "it is at least 1",
    "seed=-1": "it lies in",
}
GRAMMAR = {
    "method": "not an override",
    "lora": "did you mean method=lora?",
    "method=": "the value is empty",
    "training.learning_rate=": "the value is empty",
    "training.learning_rate=''": "the value is empty",
    "=3": "is no key",
    "model@x=roberta": "is no key",
    "method.target_modules=[q,v": "[ and ] do not pair",
    "method.target_modules='q": "a ' is not closed",
    "method.r=f(x)": "not understood",
    "method.r=" + "[" * 3000: "do not pair",
    "k" * 3000 + "=1": "unknown key",
    "method=lora,pissa": "one run takes one value",
    "seed=1,2": "one run takes one value",
    "seed=range(3)": "one run takes one value",
    "method=[lora,pissa]": "takes one name",
    "-m": "not an override",
    "+method.x=3": "+ and ~ are not used",
    "~method": "+ and ~ are not used",
}
CODE = {
    "method._target_=os.system": "there is no _target_",
    "hydra.run.dir=x": "Hydra's own settings",
    "hydra/launcher=x": "Hydra's own settings",
    "method.r=${oc.env:HOME}": "is refused",
    "model.path=${oc.env:HOME}": "is refused",
    "tracking.project=a_${seed}": "is refused",
    "method.r=${nothing.here}": "is not there",
    "method.r=${method.target_modules}": "something else than one value",
    "method.r=${method.r}": "something else than one value",
    "model.path=\x00": "no text",
    "model.path=\udcff": "no text",
}


@pytest.mark.parametrize(("argument", "words"), [*(NAMES | TYPES | RANGES | GRAMMAR | CODE).items()])
def test_wrong_words_are_answered_in_one_line(argument: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        compose([argument], families())
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "arguments", [["seed=1", "seed=2"], ["method=lora", "method=pissa"], ["output_dir=a", "output_dir=b"]]
)
def test_a_key_given_twice_is_refused(arguments: list[str]) -> None:
    with pytest.raises(InputError, match="is given twice"):
        compose(arguments, families())
