"""Has Slang's front end read HLSL: slang.py LIBRARY FOLDER STEP. Fails where it refuses a text."""

import ctypes
import multiprocessing
import pathlib
import re
import sys

HLSL, NO_CODE = 2, 16  # SLANG_SOURCE_LANGUAGE_HLSL, SLANG_COMPILE_FLAG_NO_CODEGEN


def function(name, result, *arguments):
    f = getattr(library, name)
    f.restype, f.argtypes = result, arguments
    return f


def start(path):
    """One session a process: it reads its own library of types first."""
    global library, session
    library = ctypes.CDLL(path)
    session = function("spCreateSession", ctypes.c_void_p, ctypes.c_char_p)(None)


def refused(path):
    """What is wrong with a text, or nothing."""
    text = path.read_bytes()
    # in a cast Slang takes the lengths of an array of arrays the other way round than in a declaration
    text_read = re.sub(rb"\((\w+)\[(\d+)\]\[(\d+)\]\)0", rb"(\1[\3][\2])0", text)
    pointer, string, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    request = function("spCreateCompileRequest", pointer, pointer)(session)
    function("spSetCompileFlags", None, pointer, ctypes.c_uint)(request, NO_CODE)
    unit = function("spAddTranslationUnit", number, pointer, number, string)(request, HLSL, b"kernel")
    add = function("spAddTranslationUnitSourceString", None, pointer, number, string, string)
    add(request, unit, path.name.encode(), text_read)
    why = b""
    if function("spCompile", number, pointer)(request) < 0:
        why = text.split(b"\n", 1)[0] + b"\n" + function("spGetDiagnosticOutput", string, pointer)(request)
    function("spDestroyCompileRequest", None, pointer)(request)
    return why.decode()


if __name__ == "__main__":
    library_path, folder, step = sys.argv[1:]
    texts = sorted(pathlib.Path(folder).glob("*.hlsl"))[:: int(step)]
    with multiprocessing.get_context("spawn").Pool(initializer=start, initargs=(library_path,)) as pool:
        wrong = [why for why in pool.imap_unordered(refused, texts, chunksize=8) if why]
    print("\n".join(wrong[:10]))
    print(f"{len(texts)} texts, {len(wrong)} refused")
    sys.exit(1 if wrong or not texts else 0)
