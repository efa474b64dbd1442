"""Facts of the world, and contexts that contradict them.

A relation pairs subjects with the answer that the world gives. A false context gives a subject the
answer of another subject of its relation, so that the form of the answer is always plausible.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """A kind of fact: a question, a statement, and the true answers by subject."""

    question: str
    statement: str
    answers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Fact:
    """A question, the world's answer, and the other answers that a false context may give."""

    relation: Relation
    subject: str

    @property
    def question(self) -> str:
        return self.relation.question.format(self.subject)

    @property
    def known(self) -> str:
        return self.relation.answers[self.subject]

    def context(self, answer: str) -> str:
        """Return a statement that `answer` is the answer; it begins in lower case."""
        return self.relation.statement.format(self.subject, answer)

    def wrong_answer(self, seed: int) -> str:
        """Return another answer of the relation, the same for a seed and a fact."""
        others = sorted({*self.relation.answers.values()} - {self.known})
        return random.Random(f"{self.question} {seed}").choice(others)


def facts() -> list[Fact]:
    """Return all facts, in an order that mixes the relations."""
    every_fact = [Fact(relation, s) for relation in RELATIONS for s in relation.answers]
    random.Random("facts").shuffle(every_fact)
    return every_fact


def _pairs(text: str) -> dict[str, str]:
    """Read `subject: answer; subject: answer`."""
    pairs = (pair.split(":") for pair in text.split(";"))
    return {" ".join(subject.split()): answer.strip() for subject, answer in pairs}


RELATIONS = (
    Relation(
        "What is the capital of {}?",
        "the capital of {} is {}.",
        _pairs(
            """France: Paris; Germany: Berlin; Italy: Rome; Spain: Madrid; Portugal: Lisbon;
            Austria: Vienna; Greece: Athens; Poland: Warsaw; Hungary: Budapest; Sweden: Stockholm;
            Norway: Oslo; Denmark: Copenhagen; Finland: Helsinki; Ireland: Dublin; Russia: Moscow;
            Ukraine: Kyiv; Belgium: Brussels; Switzerland: Bern; the Netherlands: Amsterdam;
            Romania: Bucharest; Bulgaria: Sofia; Serbia: Belgrade; Croatia: Zagreb;
            Turkey: Ankara; Egypt: Cairo; Kenya: Nairobi; Nigeria: Abuja; Ethiopia: Addis Ababa;
            Morocco: Rabat; Ghana: Accra; Japan: Tokyo; China: Beijing; South Korea: Seoul;
            Thailand: Bangkok; Vietnam: Hanoi; Indonesia: Jakarta; the Philippines: Manila;
            Malaysia: Kuala Lumpur; Nepal: Kathmandu; Iran: Tehran; Iraq: Baghdad;
            Saudi Arabia: Riyadh; Israel: Jerusalem; Lebanon: Beirut; Syria: Damascus;
            Jordan: Amman; Afghanistan: Kabul; Pakistan: Islamabad; Bangladesh: Dhaka;
            Canada: Ottawa; Australia: Canberra; New Zealand: Wellington; Cuba: Havana;
            Argentina: Buenos Aires; Chile: Santiago; Peru: Lima; Colombia: Bogot;
            Venezuela: Caracas; Bolivia: La Paz; Ecuador: Quito; Uruguay: Montevideo;
            Iceland: Reykjavik; Scotland: Edinburgh; Wales: Cardiff; England: London;
            Czech Republic: Prague; Slovakia: Bratislava; Estonia: Tallinn; Latvia: Riga;
            Lithuania: Vilnius; Tunisia: Tunis; Algeria: Algiers; Libya: Tripoli;
            Uganda: Kampala; Zimbabwe: Harare; Senegal: Dakar; Jamaica: Kingston"""
        ),
    ),
    Relation(
        "Who wrote {}?",
        "{} was written by {}.",
        _pairs(
            """Romeo and Juliet: Shakespeare; Hamlet: Shakespeare; Macbeth: Shakespeare;
            Pride and Prejudice: Austen; Emma: Austen; The Great Gatsby: Fitzgerald;
            To Kill a Mockingbird: Lee; Nineteen Eighty-Four: Orwell; Animal Farm: Orwell;
            Oliver Twist: Dickens; A Tale of Two Cities: Dickens; Great Expectations: Dickens;
            Moby-Dick: Melville; The Odyssey: Homer; The Iliad: Homer; War and Peace: Tolstoy;
            Anna Karenina: Tolstoy; Crime and Punishment: Dostoevsky; Don Quixote: Cervantes;
            Frankenstein: Shelley; Dracula: Stoker; The Lord of the Rings: Tolkien;
            The Hobbit: Tolkien; The Old Man and the Sea: Hemingway; The Divine Comedy: Dante;
            The Adventures of Tom Sawyer: Twain; Adventures of Huckleberry Finn: Twain;
            Jane Eyre: Bront; Wuthering Heights: Bront; Ulysses: Joyce; Brave New World: Huxley;
            The Catcher in the Rye: Salinger; Lord of the Flies: Golding;
            The Grapes of Wrath: Steinbeck; Of Mice and Men: Steinbeck; Beloved: Morrison;
            The Picture of Dorian Gray: Wilde; Les Misérables: Hugo; The Trial: Kafka;
            Fahrenheit 451: Bradbury; The Metamorphosis: Kafka; Harry Potter: Rowling;
            Little Women: Alcott; Treasure Island: Stevenson; The Time Machine: Wells;
            Alice in Wonderland: Carroll; The Canterbury Tales: Chaucer; Paradise Lost: Milton;
            The Origin of Species: Darwin; The Republic: Plato; Faust: Goethe"""
        ),
    ),
    Relation(
        "What color is {}?",
        "the color of {} is {}.",
        _pairs(
            """grass: green; the sky on a clear day: blue; snow: white; blood: red; coal: black;
            a ripe banana: yellow; a ripe tomato: red; a carrot: orange; milk: white;
            an emerald: green; a ruby: red; a sapphire: blue; a lemon: yellow; spinach: green;
            a flamingo: pink; a polar bear: white; chocolate: brown; a pumpkin: orange;
            a fire truck: red; broccoli: green; a raven: black; the sun: yellow; salt: white;
            an eggplant: purple; lavender: purple; gold: yellow; a strawberry: red;
            a lime: green; cotton: white; a sunflower: yellow; a cucumber: green"""
        ),
    ),
    Relation(
        "On which continent is {}?",
        "{} is in {}.",
        _pairs(
            """France: Europe; Egypt: Africa; Kenya: Africa; Brazil: South America; Japan: Asia;
            Nigeria: Africa; India: Asia; Germany: Europe; Canada: North America;
            Peru: South America; Mexico: North America; Thailand: Asia; Ghana: Africa;
            Spain: Europe; Vietnam: Asia;
            Argentina: South America; Poland: Europe; Chile: South America; Morocco: Africa;
            Mongolia: Asia; Sweden: Europe; Colombia: South America;
            Tanzania: Africa; Nepal: Asia"""
        ),
    ),
    Relation(
        "What is the chemical symbol for {}?",
        "the chemical symbol for {} is {}.",
        _pairs(
            """gold: Au; silver: Ag; iron: Fe; oxygen: O; hydrogen: H; carbon: C; sodium: Na;
            copper: Cu; lead: Pb; helium: He; nitrogen: N; potassium: K; calcium: Ca; zinc: Zn;
            tin: Sn; mercury: Hg; chlorine: Cl; magnesium: Mg; aluminum: Al; uranium: U"""
        ),
    ),
    Relation(
        "What is the official language of {}?",
        "the official language of {} is {}.",
        _pairs(
            """France: French; Germany: German; Italy: Italian; Mexico: Spanish; Brazil: Portuguese;
            Japan: Japanese; Russia: Russian; Greece: Greek; Poland: Polish; Sweden: Swedish;
            Turkey: Turkish; Thailand: Thai; Argentina: Spanish; Portugal: Portuguese;
            Australia: English; Egypt: Arabic; Austria: German; Hungary: Hungarian;
            Denmark: Danish; Vietnam: Vietnamese; Saudi Arabia: Arabic; Iran: Persian"""
        ),
    ),
    Relation(
        "Who invented {}?",
        "the inventor of {} was {}.",
        _pairs(
            """the telephone: Bell; the light bulb: Edison; the phonograph: Edison;
            dynamite: Nobel; the printing press: Gutenberg; the World Wide Web: Berners-Lee;
            the airplane: Wright; the cotton gin: Whitney; the lightning rod: Franklin;
            the polio vaccine: Salk; the radio: Marconi; the steam engine: Watt;
            the diesel engine: Diesel; the telegraph: Morse; the assembly line: Ford"""
        ),
    ),
    Relation(
        "Who discovered {}?",
        "the discoverer of {} was {}.",
        _pairs(
            """penicillin: Fleming; gravity: Newton; radium: Curie;
            the theory of relativity: Einstein; natural selection: Darwin; X-rays: Röntgen;
            the electron: Thomson; Uranus: Herschel; the moons of Jupiter: Galileo;
            the circulation of blood: Harvey;
            America: Columbus"""
        ),
    ),
    Relation(
        "Who painted {}?",
        "the painter of {} was {}.",
        _pairs(
            """the Mona Lisa: Leonardo; The Starry Night: Gogh; Guernica: Picasso;
            The Last Supper: Leonardo; The Scream: Munch; Girl with a Pearl Earring: Vermeer;
            the ceiling of the Sistine Chapel: Michelangelo; The Night Watch: Rembrandt;
            The Birth of Venus: Botticelli; Water Lilies: Monet; The Persistence of Memory: Dal"""
        ),
    ),
    Relation(
        "What is the currency of {}?",
        "the currency of {} is the {}.",
        _pairs(
            """Japan: yen; the United States: dollar; the United Kingdom: pound; India: rupee;
            China: yuan; Germany: euro; Mexico: peso; Russia: ruble; Brazil: real;
            Switzerland: franc; South Korea: won; Thailand: baht; Poland: zloty; France: euro;
            Canada: dollar; Sweden: krona; Turkey: lira; South Africa: rand; Italy: euro"""
        ),
    ),
    Relation(
        "What is a baby {} called?",
        "a baby {} is called a {}.",
        _pairs(
            """dog: puppy; cat: kitten; cow: calf; horse: foal; sheep: lamb; bear: cub;
            duck: duckling; goat: kid; kangaroo: joey; deer: fawn; frog: tadpole; chicken: chick;
            lion: cub;
            goose: gosling; swan: cygnet; pig: piglet"""
        ),
    ),
)
