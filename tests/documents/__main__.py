"""Write the generated blocks of all documents again: `make docs`."""

from tests.documents.blocks import CHECKOUT, write

if __name__ == "__main__":
    for changed in write(CHECKOUT):
        print(f"{changed} written")
