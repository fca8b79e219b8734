#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write the demo's three texts from a small grammar. Needs only the Python standard library.

    python3 make_text.py stories OUT [--seed N] [--bytes N]    everyday stories: what the base model is trained on
    python3 make_text.py pirate  OUT [--seed N] [--bytes N]    the same small matters in a pirate's log book
    python3 make_text.py recipe  OUT [--seed N] [--bytes N]    recipes and instructions, in short numbered steps

Paragraphs (one story, log entry or recipe each) are separated by a blank line. The same seed gives the same bytes
on every machine: the only source of chance is the sequence of `random.Random(seed).random()`.

In a template, [a|b|c] is a choice (it may nest, and an alternative may be empty) and {x} is a value of the scene.
"""
import argparse
import random
import re

DEFAULTS = {"stories": (1, 6_000_000), "pirate": (2, 100_000), "recipe": (3, 100_000)}

# ---------------------------------------------------------------------------------------------------------------
# The engine: chance, choices, slots.


class Dice:
    def __init__(self, seed):
        self.random = random.Random(seed).random

    def below(self, n):
        return int(self.random() * n)

    def pick(self, items):
        return items[self.below(len(items))]

    def chance(self, p):
        return self.random() < p

    def sample(self, items, n):
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(n)]


def choose(dice, text):
    """Resolve [a|b|c] from the outside in."""
    out, at = [], 0
    while True:
        start = text.find("[", at)
        if start < 0:
            out.append(text[at:])
            return "".join(out)
        out.append(text[at:start])
        depth, parts, begin, i = 1, [], start + 1, start + 1
        while depth:
            c = text[i]
            if c == "[":
                depth += 1
            elif c == "]":
                depth -= 1
            if (c == "|" and depth == 1) or depth == 0:
                parts.append(text[begin:i])
                begin = i + 1
            i += 1
        out.append(choose(dice, dice.pick(parts)))
        at = i


def fill(dice, text, scene):
    text = choose(dice, text)
    text = re.sub(r"\{(\w+)\}", lambda m: str(scene[m.group(1)]), text)
    text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)
    return re.sub(r" +", " ", text).strip()


def capitals(text):
    """A capital at the start of the text and after each full stop, but not in `"Where?" asked Tom`."""
    return re.sub(r"(^|[.!?] )(\"?)([a-z])", lambda m: m.group(1) + m.group(2) + m.group(3).upper(), text)


# ---------------------------------------------------------------------------------------------------------------
# The world: who, where, what. Everything that a scene may need is settled before the first sentence is written, so
# names, pronouns and objects hold through the story.

GIRLS = "Anna Mia Lena Clara Rosa Nora Ida Ella Lucy Maya Eva Ruth Sara Alice Tina Vera".split()
BOYS = "Tom Ben Leo Max Paul Sam Jonas Finn Oscar Hugo Noah Adam Peter Karl Theo Emil".split()
OLD = ["Mr. Brown", "Mr. Hill", "Mr. Lang", "Mrs. Stone", "Mrs. Wood", "Mrs. Berg", "Mr. Fox", "Mrs. Lake"]
SHE_KIN = ["mother", "grandmother", "aunt", "sister"]
HE_KIN = ["father", "grandfather", "uncle", "brother"]
PETS = ["cat", "dog", "rabbit", "hen", "goat", "duck", "parrot"]
PET_NAMES = ["Button", "Pepper", "Biscuit", "Luna", "Moss", "Coco", "Patch", "Snow"]
TREATS = {"cat": "fish", "dog": "bone", "rabbit": "carrot", "hen": "handful of corn", "goat": "apple",
          "duck": "piece of bread", "parrot": "nut"}
COLOURS = ["red", "blue", "green", "yellow", "white", "brown"]
HIDING = ["under the bed", "behind the stove", "in the garden", "on the roof", "in the big basket", "under the stairs",
          "behind the shed", "in the cellar", "in the apple tree", "under the old boat"]
PLACES = ["park", "beach", "lake", "river", "forest", "hill", "village", "castle"]
# as bought, as used, shop, it or them, is or are
FOODS = [("a loaf of bread", "bread", "bakery", "it", "was"), ("a bag of apples", "apples", "market", "them", "were"),
         ("a bottle of milk", "milk", "corner shop", "it", "was"), ("a box of eggs", "eggs", "farm", "them", "were"),
         ("a piece of cheese", "cheese", "market", "it", "was"), ("a jar of honey", "honey", "market", "it", "was"),
         ("a bag of flour", "flour", "mill", "it", "was"), ("a fresh fish", "fish", "harbour", "it", "was"),
         ("six lemons", "lemons", "market", "them", "were"), ("a bag of rice", "rice", "corner shop", "it", "was"),
         ("a bunch of carrots", "carrots", "farm", "them", "were"), ("a jar of jam", "jam", "corner shop", "it", "was")]
# dish, what is missing, what is there, how it tasted
DISHES = [("a carrot soup", "salt", "carrots and onions", "warm and sweet"),
          ("an apple cake", "sugar", "apples and flour", "soft and sweet"),
          ("a pot of rice", "butter", "rice and peas", "rich and good"),
          ("a plate of pancakes", "milk", "eggs and flour", "light and warm"),
          ("a fish pie", "flour", "fish and potatoes", "hot and good"),
          ("a bean stew", "pepper", "beans and onions", "thick and hot"),
          ("a lemon cake", "butter", "lemons and eggs", "fresh and sweet"),
          ("a tomato soup", "cream", "tomatoes and onions", "warm and rich")]
# thing, part that fails, tool or stuff, deed
BROKEN = [("bicycle", "chain", "some oil", "put the chain back"), ("kite", "tail", "a piece of string", "tied on a new tail"),
          ("chair", "leg", "some glue", "fixed the leg"), ("clock", "spring", "a tiny screwdriver", "put in a new spring"),
          ("gate", "hinge", "two long nails", "fixed the hinge"), ("lamp", "cord", "some tape", "mended the cord"),
          ("wagon", "wheel", "a hammer", "put the wheel back on"), ("boat", "bottom", "a pot of tar", "closed the hole"),
          ("coat", "sleeve", "a needle and thread", "sewed up the sleeve"), ("radio", "button", "some glue", "fixed the button")]
GIFTS = [("scarf", "soft"), ("kite", "big"), ("drum", "small"), ("hat", "warm"), ("wooden horse", "little"),
         ("paper star", "big"), ("cup", "pretty"), ("picture book", "thick"), ("flute", "wooden"), ("box of pencils", "new")]
PLANTS = [("beans", "snails", "laid a ring of sand around the bed"), ("carrots", "rabbits", "built a little fence"),
          ("peas", "birds", "hung up some bright paper"), ("tomatoes", "cold nights", "put an old window over them"),
          ("pumpkins", "weeds", "pulled out the weeds by hand"), ("sunflowers", "strong wind", "tied them to long sticks"),
          ("onions", "dry days", "carried water every evening"), ("strawberries", "hungry birds", "laid a net over them")]
LOST = [("key", "an old"), ("purse", "a brown"), ("glove", "a woollen"), ("ring", "a silver"), ("watch", "a gold"),
        ("umbrella", "a black"), ("doll", "a small"), ("letter", "a wet"), ("cap", "a blue"), ("map", "a folded")]
WEATHER = {
    "rain": ["It was a rainy {day}.", "Rain fell on the roofs all {part}.", "It rained that {part}.",
             "The {part} was grey and wet."],
    "sun": ["It was a warm {day}.", "The sun was shining.", "It was a bright and sunny {part}.",
            "The sky was blue and clear."],
    "wind": ["It was a windy {day}.", "A strong wind blew from the sea.", "The wind shook the trees that {part}."],
    "snow": ["It was a cold {day}.", "Snow lay on the street.", "The first snow fell that {part}."],
    "fog": ["It was a foggy {day}.", "A thick fog hung over the town.", "The {part} was quiet and full of fog."],
}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def make_scene(dice):
    s = {}
    girl = dice.chance(0.5)
    she, he = ("she", "her", "her"), ("he", "him", "his")
    # The friend and the relative are never of the hero's sex, so that "he" and "she" always say who is meant.
    s["N"], s["F"] = (dice.pick(GIRLS), dice.pick(BOYS)) if girl else (dice.pick(BOYS), dice.pick(GIRLS))
    s["n"], s["o"], s["p"] = she if girl else he
    s["f"], s["fo"], s["fp"] = he if girl else she
    s["kin"] = dice.pick(HE_KIN if girl else SHE_KIN)
    s["old"] = dice.pick([m for m in OLD if m.startswith("Mr." if girl else "Mrs.")])
    s["pet"] = dice.pick(PETS)
    s["P"] = dice.pick(PET_NAMES)
    s["treat"] = TREATS[s["pet"]]
    s["colour"], s["colour2"] = dice.sample(COLOURS, 2)
    s["hide1"], s["hide2"], s["hide3"] = dice.sample(HIDING, 3)
    s["place"], s["place2"] = dice.sample(PLACES, 2)
    s["buy"], s["food"], s["shop"], s["it"], s["was"] = dice.pick(FOODS)
    s["dish"], s["missing"], s["have"], s["taste"] = dice.pick(DISHES)
    s["thing"], s["part_of"], s["tool"], s["deed"] = dice.pick(BROKEN)
    s["gift"], s["gift_is"] = dice.pick(GIFTS)
    s["plant"], s["pest"], s["cure"] = dice.pick(PLANTS)
    s["lost"], s["lost_a"] = dice.pick(LOST)
    s["sky"] = dice.pick(sorted(WEATHER))
    s["part"] = dice.pick(["morning", "afternoon"])
    s["day"] = dice.pick([s["part"], "day"])
    s["week"] = dice.pick(DAYS)
    s["num"] = dice.pick(["two", "three", "four", "five"])
    return s


# ---------------------------------------------------------------------------------------------------------------
# Everyday stories. A plot is a list of beats; a beat that starts with "?" is told half of the time.

WHEN = "[One {part}|On {week}|One {week}|Last {week}|That {part}|Early one {part}|After breakfast|After school]"

PLOTS = [
    # an errand
    ["[" + WHEN + ", {N} went to the {shop} to buy {buy}.|{N} needed {buy}.|" + WHEN + ", {p} {kin} asked {N} to buy {buy}.|"
     "There {was} no {food} left in the kitchen, so {N} went out to buy {buy}.]",
     "?[{n} took a [basket|bag] and walked to the {shop}.|{n} put on {p} {colour} coat and ran to the {shop}.|The {shop} was not far away.]",
     "[At the {shop} {n} saw that {p} money was gone.|But the door of the {shop} was closed.|When {n} came to the {shop}, the {food} {was} sold out.|"
     "On the way, {n} fell and tore {p} bag.|A long line of people stood in front of the {shop}.]",
     "[{n} did not know what to do.|{n} sat down on a step and thought.|{n} was [sad|cross], but only for a moment.|\"Oh no,\" said {N}.]",
     "[Then {p} friend {F} came along and helped {o}.|Just then {F} came around the corner.|\"Wait, I can help you,\" said {F}.|{F} saw {o} and asked what was wrong.]",
     "[{f} had {food} at home and gave {o} half of {it}.|{f} knew a small shop near the {place} that sold {food}.|{f} gave {o} {buy} and a smile.]",
     "?[{N} thanked {fo} [twice|with a smile].|\"Thank you, {F},\" said {N}.|{N} was very glad.]",
     "[{n} carried the {food} home [with care|under {p} arm|in both hands].|They walked home together.|{n} came home just in time for [lunch|supper].|Soon everyone sat at the table.]"],
    # a pet is gone
    ["[{N} had a {colour} {pet} called {P}.|{N} lived with {p} {pet} {P} in a small house.|{N}'s best friend was {P}, a {colour} {pet}.]",
     "[" + WHEN + ", {P} was gone.|" + WHEN + ", {N} could not find {P}.|" + WHEN + ", {N} called {P}, but the {pet} did not come.]",
     "[{n} looked {hide1}, but {P} was not there.|First {n} looked {hide1}. Nothing.|{n} looked {hide1} and {hide2}.]",
     "?[\"Have you seen my {pet}?\" {n} asked {F}.|{n} asked {F}, but {f} had not seen the {pet}.|{F} came to help.]",
     "?[Then {n} heard a small sound.|Then {F} saw something move.|{N} stood still and listened.|At last {n} had an idea and fetched a {treat}.]",
     "[{P} was {hide3}, fast asleep.|The {pet} sat {hide3} and looked very pleased.|There, {hide3}, sat {P}.|They found {P} {hide3}.]",
     "[{n} gave {P} a {treat}.|{n} took the {pet} in {p} arms.|{N} laughed and carried {P} home.|\"There you are!\" said {N}.]",
     "?[That night {P} slept on {N}'s bed.|From then on {n} closed the door [at night|with care].|The {pet} ate it all and went to sleep.]"],
    # cooking
    ["[" + WHEN + ", {N} wanted to cook {dish}.|{N} and {F} made {dish} for {p} {kin}.|" + WHEN + ", {N} made {dish} for supper.]",
     "[{n} had {have}, but no {missing}.|There were {have} in the kitchen, but the {missing} was gone.|{n} washed the pot and looked for the {missing}, but there was none.]",
     "[{n} looked in every jar.|The shop was already closed.|\"We can't cook without {missing},\" said {N}.|{n} looked out of the window and thought.]",
     "[So {n} went next door and asked {old} for some {missing}.|{old} next door had plenty of {missing}.|So {n} knocked at the door of {old}.]",
     "[{old} gave {o} a cup of {missing}.|\"Take as much as you need,\" said {old}.|{old} was happy to help.]",
     "?[Soon the whole house smelled good.|{n} stirred and tasted and stirred again.|An hour later the food was ready.|{n} set the table for {num}.]",
     "[It was {taste}.|The food was {taste}.|Everyone said that it was {taste}.]",
     "?[{n} carried a plate next door, too.|Of course, {old} ate with them.|{P} the {pet} licked the pot.|Nothing was left in the end.]"],
    # something is broken
    ["[{N} had an old {thing}.|{N} loved {p} {colour} {thing}.|The {colour} {thing} belonged to {N}.]",
     "[" + WHEN + ", the {part_of} broke.|" + WHEN + ", the {part_of} of the {thing} broke.|" + WHEN + ", {n} saw that the {part_of} was broken.]",
     "?[\"It is too old,\" said {p} {kin}.|{n} did not want a new one.|{n} was sad all {part}.|{n} wanted to throw it away.]",
     "[{n} asked {F} for help.|{n} carried it to {F}, who was good with tools.|{F} looked at it for a long time.]",
     "[\"We only need {tool},\" said {F}.|{f} had {tool} in the shed.|{f} went away and came back with {tool}.]",
     "[Together they {deed}.|It took an hour, but then they {deed}.|{N} held it still, and {F} {deed}.|Slowly and with care {f} {deed}.]",
     "[Now the {thing} was as good as new.|The {thing} worked again.|After that, the {thing} was better than before.]",
     "?[{N} gave {fo} {buy} to say thanks.|\"Next time I can do it myself,\" said {N}.|{n} smiled all the way home.|{n} painted it {colour2}, too.]"],
    # a birthday
    ["[It was {F}'s birthday.|On {week} it was {F}'s birthday.|{N} was invited to {F}'s birthday.]",
     "[{N} wanted to give {fo} a {colour} {gift}.|{N} had no present yet.|{N} thought about a present for a long time.]",
     "[But {n} had only a few coins.|But everything in the shop cost too much.|{n} looked in the shops, but found nothing good.]",
     "[\"Then make one yourself,\" said {p} {kin}.|So {n} made a {gift} with {p} own hands.|So {n} sat down and made a {gift_is} {gift}.]",
     "[{n} worked until it was dark.|It took {num} evenings.|{p} {kin} helped a little.|{n} painted it {colour}.]",
     "[{F} opened the box and laughed with joy.|When {F} saw the {gift}, {f} smiled.|{F} held the {gift} up for all to see.]",
     "[\"This is the best {gift} in the world,\" said {F}.|\"Did you make this?\" asked {F}.|\"It is just what I wanted,\" {f} said.]",
     "?[Then they ate cake and played until the evening.|They shared a big cake with {num} candles.|{N} was proud and happy.]"],
    # a garden
    ["[In spring {N} planted {plant}.|{N} had a small garden behind the house.|{N} and {p} {kin} planted {plant} behind the house.]",
     "[{n} wanted to grow {plant}.|Every day {n} looked at the {plant}.|{n} gave the {plant} water every {part}.|Soon the first green leaves came up.]",
     "[But {pest} hurt the {plant}.|Then came the {pest}, and the {plant} looked bad.|But the {plant} had a problem: {pest}.]",
     "[{n} asked {old} what to do.|{n} read about it in a book.|{F} had seen this before.|\"What can we do?\" asked {N}.]",
     "[So {n} {cure}.|Together with {F} {n} {cure}.|The next day {n} {cure}.]",
     "[It helped.|After a week the {plant} looked better.|That was a good idea.|From then on the {plant} grew fast.]",
     "[In summer {n} had a full basket.|By the end of summer there were more {plant} than {n} could carry.|{n} gave some {plant} to {F} and kept the rest.]",
     "?[{P} the {pet} got some, too.|{n} was proud of {p} garden.|Next year {n} will plant {plant} again.]"],
    # a trip
    ["[" + WHEN + ", {N} took the bus to the {place}.|{N} and {F} wanted to see the {place}.|" + WHEN + ", {N} and {F} took the bus to the {place}.]",
     "?[{n} had a [map|sandwich|book] in {p} bag.|{n} took {buy} along.|{n} sat by the window and looked out.]",
     "[{n} fell asleep on the bus.|{n} read {p} book and forgot the time.|The bus was full, and {n} could not see the signs.|It was the wrong bus.]",
     "[At the last stop {n} got off and saw the {place2}.|Suddenly the bus was at the {place2}.|When {n} looked up, the bus stood at the {place2}.]",
     "[\"This is not the {place},\" {n} said.|\"Where are we?\" asked {N}.|{n} was a little afraid.]",
     "[The driver laughed and told {o} the way.|The driver was kind and let {o} ride back for free.|An old woman with a dog showed {o} the way.]",
     "[But the {place2} was so pretty that {n} stayed there all day.|An hour later the bus came to the {place}.|So {n} walked to the {place} on foot.]",
     "?[In the evening {n} told {p} {kin} about it.|It was a good day after all.|On the way back {n} looked at every sign.]"],
    # something is found
    ["[" + WHEN + ", {N} found {lost_a} {lost} near the {place}.|" + WHEN + ", {N} walked to the {place} and found {lost_a} {lost}.|{N} saw {lost_a} {lost} on the path to the {place}.]",
     "[{n} picked it up and looked around.|\"Who lost this {lost}?\" {n} said.|Nobody was there.]",
     "?[{n} could keep it, but that did not feel right.|{F} said that it looked old.|It was wet from the rain.]",
     "[{n} asked at the {shop}, but nobody knew the {lost}.|{n} showed the {lost} to {F}.|{n} put up a note at the {shop}.|{n} asked every person on the street.]",
     "[In the end {old} came and asked about a {lost}.|Then {n} met {old}, who was looking for something on the ground.|The {lost} belonged to {old}.]",
     "[\"That is my {lost}!\" said {old}.|{old} had looked for it for {num} days.|{old} was so glad and shook {p} hand {num} times.]",
     "[{old} gave {o} {buy}.|As thanks {n} got {buy}.|{N} did not want any money for it.]",
     "?[{n} shared it with {F}.|They are friends to this day.|That evening {N} went to bed happy.]"],
    # a picnic
    ["[" + WHEN + ", {N} and {F} had a picnic near the {place}.|" + WHEN + ", {N} and {F} walked to the {place} with a full basket.]",
     "[In the basket there were {food}, cheese and {num} cups.|They had {buy} and a {colour} blanket.|{F} carried the basket, and {N} carried the {colour} blanket.]",
     "[They had just sat down when it began to rain.|Then dark clouds came over the hill.|Suddenly a strong wind took the blanket away.|When they opened the basket, it was full of ants.]",
     "[\"Quick, under the tree!\" said {F}.|\"Run!\" said {N}.|{N} laughed, but {F} did not.]",
     "[They ran to an old hut and waited.|They found a dry place under a bridge.|They took everything and sat down under a big tree.]",
     "[There they ate the {food}.|There they met {old}, who made a little fire.|{P} the {pet} came, too, and got a {treat}.]",
     "[It was the best picnic of the year.|Soon the sun came back.|Wet and happy they went home.|\"Next time we eat at home,\" said {F}, and both laughed.]"],
    # helping somebody old
    ["[{old} lived next door to {N}.|{old} lived alone in the house with the {colour} door.|" + WHEN + ", {N} met {old} on the stairs.]",
     "[" + WHEN + ", {old} was ill and could not go out.|{old} carried a heavy bag and had to stop after every step.|" + WHEN + ", {old} could not find {lost_a} {lost}.]",
     "[\"May I help you?\" asked {N}.|{N} wanted to help.|{N} asked what was wrong.]",
     "[{n} carried the bag up the stairs.|{n} went to the {shop} and brought {buy}.|{n} looked {hide1} and {hide2} and helped as well as {n} could.]",
     "?[{F} came, too, and swept the floor.|Then {n} made a pot of tea.|{n} also gave the {pet} some water.]",
     "[{old} told {o} a story about the {place}.|Then they sat in the kitchen and talked about the old days.|{old} smiled for the first time in days.]",
     "[{N} went home with a jar of jam.|Since then {n} visits {old} every {week}.|\"Come again soon,\" said {old}.|\"You are a good neighbour,\" said {old}.]"],
    # a noise at night
    ["[One night {N} could not sleep.|It was night, and {N} lay in bed.|One night {N} woke up.]",
     "[{n} heard a noise.|Something knocked at the window.|There was a strange sound {hide3}.]",
     "[{n} pulled the blanket over {p} head.|{n} took a lamp and got up.|{n} woke {p} {kin}.|{p} heart beat fast.]",
     "[{n} looked {hide1}. Nothing was there.|Slowly {n} went down the stairs.|The floor was cold, and the house was dark.]",
     "[Then {n} saw {p} {pet} {P}.|It was only the {pet} {P}.|Two eyes shone in the dark. It was {P}, the {pet}.]",
     "[The {pet} was hungry and wanted a {treat}.|{P} had knocked over a {colour} cup.|{P} had found the {food} in the kitchen.]",
     "[{N} laughed and went back to bed.|\"You silly {pet},\" said {N}.|{n} gave {P} a {treat} and was not afraid any more.]",
     "?[In the morning {n} told {F} about it.|They both slept until the sun was high.|After that the house was quiet.]"],
    # stuck in a tree
    ["[" + WHEN + ", {N} and {F} played near the {place}.|" + WHEN + ", {N} met {F} near the {place}.]",
     "[They had a {colour} [ball|kite|paper plane].|{F} had brought a new {colour} [ball|kite].|They played with a {colour} [ball|kite|hat].]",
     "[The wind took it, and it landed in a tall tree.|{N} threw too hard, and it landed in a tree.|Then it hung in a tree, far too high.]",
     "[{n} jumped, but {n} could not reach it.|{F} threw a stick, but it did not help.|They shook the tree, but only leaves came down.]",
     "?[\"We need a ladder,\" said {F}.|\"I have an idea,\" said {N}.|{N} almost cried.]",
     "[{old} came by with a long broom.|{N} climbed on {F}'s back.|{n} ran home and came back with a ladder.|A bird sat down on the branch and pushed it a little.]",
     "[At last it fell down, right on {F}'s head.|It came down, and they cheered.|Soon they had it back.]",
     "[They played on until it was dark.|From then on they played far away from the trees.|They laughed about it for a long time.]"],
    # a letter
    ["[{N}'s {kin} lived far away, near the {place}.|{N} had not seen {p} {kin} for a long time.|{N} missed {p} {kin}.]",
     "[" + WHEN + ", {n} wrote a letter.|So {n} sat down and wrote a long letter.|" + WHEN + ", {n} took a pen and a sheet of {colour} paper.]",
     "[{n} wrote about the {pet} {P} and about {F}.|{n} wrote about school and about the {plant} in the garden.|{n} told about the weather and about {dish}.]",
     "[{F} brought the letter to the post office.|On the way to the post office the letter fell into the water.|{n} had no stamp, but {F} had one.]",
     "?[{n} dried it on the stove.|Then {n} had to wait.|Every {part} {n} looked into the letter box.]",
     "[After {num} weeks an answer came.|On {week} there was an answer in the box.|Then, on {week}, the bell rang.]",
     "[\"I will visit you soon,\" it said.|There was a {colour} {gift} in it, too.|In it was a picture of the {place}.]",
     "?[{N} read it {num} times.|{N} ran to {F} and showed it to {fo}.|{n} put it on the wall above {p} bed.]"],
    # painting
    ["[" + WHEN + ", {N} painted the [gate|door|fence|bench].|{N} and {F} wanted to paint the old [gate|fence|bench].]",
     "[{n} had a pot of {colour} paint and {num} brushes.|{n} chose {colour}, because {p} {kin} liked it.|The paint was {colour}.]",
     "[But there was not enough paint.|Then {P} the {pet} ran through the paint.|{F} sat down on it before it was dry.]",
     "[Soon there were {colour} spots all over the yard.|\"Oh no!\" said {N}.|{N} did not know if {n} should laugh or cry.]",
     "[{F} had some {colour2} paint at home.|\"Let us add some {colour2},\" said {F}.|They took {colour2} paint and made flowers out of the spots.]",
     "[In the end it was {colour} and {colour2}.|Now it was {colour} with {colour2} spots.|{colour} and {colour2} looked good together.]",
     "[Everybody on the street liked it.|{p} {kin} said that it was the prettiest in town.|{N} was proud.|{old} wanted one just like it.]"],
    # a book
    ["[" + WHEN + ", {N} took a book home from the library.|{N} had a book about [ships|animals|stars|old castles].|" + WHEN + ", {F} gave {N} a thick {colour} book.]",
     "[It told about a {pet} who lived at the {place}.|It was about a girl and a {colour} {gift}.|{n} read it [in bed|on the stairs|under a tree] until it was dark.]",
     "[But the last page was gone.|But somebody had torn out a page.|Then {n} left it on the bus.|But on {week} {n} could not find it.]",
     "[\"Now I will never know the end,\" said {N}.|{n} looked {hide1} and {hide2}.|{N} was sad and told {F} about it.]",
     "[{F} had read the same book.|Then {old} rang the bell and had it under one arm.|{F} found it {hide3}.|\"I know how it ends,\" said {F}.]",
     "[They sat down and read the end together.|{F} told {o} the end of the story.|{N} was so glad that {n} jumped.]",
     "[The next day {n} brought the book back.|After that {N} wrote a story, too.|{N} gave {fo} {buy}.|Then they read it from the start.]"],
    # a day indoors
    ["[It rained and rained.|Outside it was cold and wet.|A storm blew, and nobody could go out.]",
     "[{N} and {F} sat at the window.|{N} was at home with {p} {kin}.|{N} and {F} did not know what to play.]",
     "[\"I have an idea,\" said {N}.|\"Let us build something,\" said {N}.|Then {N} found an old box {hide1}.]",
     "[{n} built a house from {num} chairs and a {colour} blanket.|{n} made a ship from the big basket.|{n} made a {gift} from paper and glue.|{n} took out the {colour} paint and {num} brushes.]",
     "[{P} the {pet} wanted to play, too.|Then the light went out.|It fell down, and {n} built it again.]",
     "?[They lit a candle and told stories.|{P} got a {treat} and sat down in the middle.|Everybody laughed.]",
     "[When the rain stopped, they did not see it.|They played until it was time for supper.|\"I hope it rains again on {week},\" said {N}.]"],
    # a stall
    ["[" + WHEN + ", {N} wanted to sell {plant} at the market.|" + WHEN + ", {N} and {p} {kin} sold {plant} at the market.|{N} wanted to earn money for a {colour} {gift}.]",
     "[{n} put up a little table near the {shop}.|{n} carried {num} full baskets to the market.|{n} wrote a big {colour} sign.]",
     "[But nobody stopped.|For a long time nobody came.|Many people came by, but no one bought anything.]",
     "[\"What is wrong?\" asked {N}.|Then {P} the {pet} sat down on the table.|Then {F} came and sang a song.|\"You must call out loud,\" said {p} {kin}.]",
     "[Soon a lot of people stood around the table.|Everybody laughed and came closer.|{old} bought the first bag and told all the neighbours.]",
     "[By {week} everything was sold.|After an hour the baskets were empty.|In the end {n} had a pocket full of coins.]",
     "[{n} bought {buy} for {p} {kin}.|{n} gave half of the money to {F}.|{P} got a {treat}, of course.|Now {n} could buy the {gift}.]"],
    # somebody is ill
    ["[" + WHEN + ", {F} was not at school.|" + WHEN + ", {F} had a cold.|{F} was ill and had to stay in bed.]",
     "[{N} was worried.|{N} wanted to cheer {fo} up.|\"I will visit {fo},\" said {N}.]",
     "[{n} cooked {dish}.|{n} took {buy} and a book.|{n} packed {buy} and a {colour} {gift}.]",
     "[On the way {n} met {old}.|It was a long way in the [wind|rain|snow].|{P} the {pet} came along.|The bus was late, so {n} walked.]",
     "[{F} was happy to see {o}.|When {F} heard the bell, {f} sat up in bed.|\"How nice that you came,\" said {F}.]",
     "[{n} read {fo} a story about a {pet}.|They played a game with {num} stones.|{n} told {fo} about school.]",
     "[After {num} days {F} was well again.|Soon {f} felt better.|The next {week} {F} could run again.]",
     "?[Then {N} had a cold, and {F} came to visit.|\"That was your soup,\" said {F}.|They went to the {place} together.]"],
]

# Scraps of the other two styles, one to four words each and in no order, end one story out of fifteen. That way the
# tokens that only those styles use are known to the base model, but not how a log entry or a recipe is built.
SCRAPS = ("[{N} and {F} played a word game and wrote:|On an old sheet of paper {n} read:|"
          "In a strange book {n} found these words:|The sign at the {shop} said:]")
SCRAPS_EVERY = 15


def scraps(dice, lines):
    out = ""
    for _ in range(5 + dice.below(6)):
        words = dice.pick(lines).split()
        first = 0 if dice.chance(0.3) else dice.below(len(words))
        out += ("\n" if first == 0 else " / ") + " ".join(words[first:first + 1 + dice.below(4)])
    return out


def story(dice, lines=()):
    s = make_scene(dice)
    beats = dice.pick(PLOTS)
    text = [dice.pick(WEATHER[s["sky"]])] if dice.chance(0.3) else []
    for beat in beats:
        if beat[0] == "?":
            if dice.chance(0.5):
                continue
            beat = beat[1:]
        text.append(beat)
    told = " ".join(capitals(fill(dice, t, s)) for t in text)
    if lines and dice.below(SCRAPS_EVERY) == 0:
        told += " " + capitals(fill(dice, SCRAPS, s)) + scraps(dice, lines)
    return told


# ---------------------------------------------------------------------------------------------------------------
# The log book of a pirate who runs the same errands.

SHIPS = ["Salty Gull", "Rusty Anchor", "Black Herring", "Merry Barnacle", "Crooked Mast"]
SEA_SKY = {"rain": "Foul. Rain by the bucket", "sun": "Fair. Sun on the brine", "wind": "Fierce. A gale off the port bow",
           "snow": "Bitter. Ice on the riggin'", "fog": "Thick. Fog like pea soup"}
OATHS = ["Arr!", "Avast!", "Shiver me timbers!", "Blow me down!", "Yo ho ho!", "Ahoy!"]
CREW = ["scurvy dogs", "hearties", "swabs", "bilge rats", "lubbers"]

LOGS = [
    ["Cap'n {N} be wantin' {buy}, so we [hoisted the sails|weighed anchor] an' set course fer the {shop}.",
     "[But the {food} be plundered, every last crumb|But me coins be lost in Davy Jones' locker|But the hatch o' the {shop} be barred, curse it]!",
     "Then up sailed {F} the [Brave|Bold|Grim], an' gave us [half the booty|a share o' the plunder], [arr|aye].",
     "We stowed the {food} below deck an' [drank grog till the stars came out|sang shanties all the way home]."],
    ["The ship's {pet}, ol' {P}, be gone overboard, or so we feared.",
     "Cap'n {N} had the {crew} search {hide1} an' {hide2}, an' found [nary a whisker|naught but rats].",
     "\"[A doubloon|A gold piece] to the matey that finds that {pet}!\" roared the Cap'n.",
     "An' there lay {P}, {hide3}, snorin' like [a drunken bosun|a beached whale]. We gave the beast a {treat} an' a tot o' rum."],
    ["The crew be hungry, so Cap'n {N} bade the cook boil up {dish}.",
     "{have} we had aplenty, but nary a pinch o' {missing} in the hold, [blast it|curse it]!",
     "We boarded the sloop o' ol' {old} an' took a keg o' {missing} at cutlass point, [arr|aye].",
     "It be {taste}, an' them {crew} licked the deck clean."],
    ["The {part_of} o' the Cap'n's {thing} be broke, [blast it|curse it], an' {N} cursed like thunder.",
     "\"Fetch me {tool}, ye {crew}, or walk the plank!\" {n} roared.",
     "{F} the [Brave|Bold|Grim] came swingin' down the riggin' an' {deed} afore the [grog be gone|tide turned].",
     "Now she be shipshape again, [arr|aye], an' {F} be first mate."],
    ["It be the birthday o' {F} the [Brave|Bold|Grim], an' Cap'n {N} had nary a doubloon fer a gift.",
     "So {n} carved a {colour} {gift} from [the bones o' a whale|an ol' plank] with {p} own cutlass.",
     "\"[Blimey|Shiver me timbers], that be the finest {gift} on the seven seas!\" bellowed {F}.",
     "We fired the cannons {num} times an' drank grog till we saw double."],
    ["Cap'n {N} went ashore an' planted {plant} on the isle, like any landlubber.",
     "Then came the {pest}, them thievin' {crew}, an' the {plant} be near lost.",
     "So the Cap'n {cure}, cutlass in hand, [arr|aye].",
     "Now there be {plant} aplenty in the hold, an' no scurvy aboard."],
    ["We set sail fer the {place}, treasure map in hand.",
     "Cap'n {N} [fell asleep at the wheel|held the map upside down], an' we ran aground at the {place2}, [blast it|curse it]!",
     "\"This here be not the {place}, ye {crew}!\" cried {F} the [Brave|Bold|Grim].",
     "But there be [gold|rum|treasure] buried at the {place2}, so we dug, an' drank, an' stayed."],
    ["Cap'n {N} spied {lost_a} {lost} washed ashore by the {place}.",
     "\"Finders keepers,\" growled the {crew}, but the Cap'n be [honest as the tide|true as a compass].",
     "It be the {lost} o' ol' {old}, who wept salty tears an' [gave us|paid us] {buy} fer it.",
     "So we hoisted the Jolly Roger an' sailed on with the tide."],
    ["At midnight there be a dreadful noise {hide3}, an' the {crew} cried, \"A ghost!\"",
     "Cap'n {N} drew {p} cutlass an' went below deck with nary a lantern.",
     "Two eyes be glowin' in the dark, arr, but it be naught but {P}, the ship's {pet}, in the rum.",
     "We gave the beast a {treat} an' went back to our hammocks."],
    ["{F} the [Brave|Bold|Grim] be sick with scurvy an' moanin' in {fp} hammock.",
     "So Cap'n {N} sailed through [storm an' gale|shark an' shoal] to bring {fo} {buy} an' a keg o' rum.",
     "\"Drink, ye ol' sea dog, or feed the fishes!\" said the Cap'n.",
     "After {num} days {F} be dancin' a jig on the poop deck, [arr|aye]."],
]
LOG_END = ["Booty: {num} doubloons. Rum: {num2} barrels.", "Booty: nary a coin. Rum: {num2} barrels.",
           "Booty: a chest o' gold. Rum: all gone, arr."]


def log_entry(dice, number):
    s = make_scene(dice)
    s.update(ship=dice.pick(SHIPS), num2=dice.pick(["two", "six", "seven", "nine"]), sea=SEA_SKY[s["sky"]],
             oath=dice.pick(OATHS), crew=dice.pick(CREW), number=number)
    lines = ["~ LOG O' THE {ship}, DAY {number} ~".replace("{ship}", s["ship"].upper()), "Weather: {sea}, arr."]
    lines.append(dice.pick(["{oath} ", ""]) + " ".join(dice.pick(LOGS)))
    lines.append(dice.pick(LOG_END))
    return "\n".join(capitals(fill(dice, line, s)) for line in lines)


# ---------------------------------------------------------------------------------------------------------------
# Recipes and instructions.

STEPS = {
    "soup": (["Wash and chop the {a}.", "Heat 1 spoon oil in a pot.", "Fry the {b} for {t1} min.", "Add the {a} and 1 l water.",
              "[Boil|Simmer] for {t2} min.", "[Mash|Stir] well. Add salt."], "Serve hot with bread."),
    "cake": (["Heat the oven to {deg} C.", "Mix 200 g flour and 100 g sugar.", "Add 2 eggs. [Beat|Stir] well.",
              "Add the {a} and the {b}.", "Pour into a tin.", "Bake for {t2} min."], "Let it cool. Cut into {n} slices."),
    "salad": (["Wash the {a}. Drain.", "Slice the {a} and the {b}.", "Mix 2 spoons oil, 1 spoon vinegar, salt.",
               "Pour over. Toss.", "Chill for {t1} min."], "Serve cold."),
    "pie": (["Heat the oven to {deg} C.", "Roll out 300 g dough.", "Line a tin with the dough.", "Fill with the {a} and the {b}.",
             "Cover. Prick with a fork.", "Bake for {t2} min."], "Serve warm."),
    "stew": (["Chop the {a} and the {b}.", "Fry in 2 spoons butter for {t1} min.", "Add 500 ml water.", "Cover. Simmer for {t2} min.",
              "Add salt and pepper."], "Serve hot with rice."),
}
FRUIT = ["apple", "lemon", "plum", "cherry", "berry", "pear"]
GREENS = ["carrot", "tomato", "bean", "onion", "potato", "pumpkin", "pea", "leek"]
HOWTO = [
    ("MEND A {thing}", "{tool}, a cloth, 1 hour", ["Clean the {part_of}.", "Find the crack. Mark it.", "Use {tool}.", "Press for {t1} min.", "Let dry for {t2} min.", "Test. Repeat if needed."]),
    ("FIND A LOST {pet}", "1 {treat}, a lamp", ["Stay calm.", "Look {hide1}.", "Look {hide2}.", "Put out 1 {treat}. Wait for {t1} min.", "Do not shout.", "Close the door."]),
    ("GROW {plant}", "seeds, soil, water", ["Dig 5 cm deep. Rake.", "Sow in rows, 20 cm apart.", "Water daily, 1 l per row.", "Watch out for {pest}.", "Thin out after {n} weeks.", "Pick when ripe."]),
    ("PAINT A FENCE", "{colour} paint, {n} brushes", ["Sand the wood.", "Wipe off the dust.", "Stir the paint for {t1} min.", "Brush on 1 coat. Let dry.", "Add coat 2.", "Keep the {pet} away."]),
    ("WRITE A LETTER", "paper, pen, 1 stamp", ["Write the date.", "Greet: Dear {F}.", "Tell {n} things. Keep it short.", "Sign. Fold twice.", "Add the stamp.", "Post before {week}."]),
    ("PACK A PICNIC", "basket, blanket, {n} cups", ["Wrap the {food}.", "Fill a bottle, 1 l.", "Heavy things first.", "Cover with the blanket.", "Check the sky. Go to the {place}."]),
    ("CURE A COLD", "tea, honey, rest", ["Boil 500 ml water.", "Add 1 spoon honey.", "Drink hot. Sip.", "Sleep for 8 h.", "Repeat for {n} days."]),
]
TIPS = ["Keeps {n} days.", "Do not freeze.", "Double for guests.", "Use ripe {a}.", "Less salt is fine.", "Best on {week}."]


def plural(word):
    return word[:-1] + "ies" if word.endswith("rry") else word + "es" if word.endswith("to") else word + "s"


def recipe(dice):
    s = make_scene(dice)
    s.update(t1=dice.pick([3, 5, 10, 15]), t2=dice.pick([20, 25, 30, 40, 45]), deg=dice.pick([160, 180, 200, 220]),
             n=2 + dice.below(7))
    if dice.chance(0.65):
        kind = dice.pick(sorted(STEPS))
        sweet = kind in ("cake", "pie")
        a, b = dice.sample(FRUIT if sweet else GREENS, 2)
        s.update(a=plural(a), b=plural(b))
        steps, last = STEPS[kind]
        head = "## " + dice.pick(["{A} {K}", "{A} AND {B} {K}", "QUICK {A} {K}"])
        head = head.replace("{A}", a.upper()).replace("{B}", b.upper()).replace("{K}", kind.upper())
        lines = [head, "Serves: {n} | Time: {total} min".replace("{total}", str(s["t1"] + s["t2"])),
                 "Need: %d {a}, %d {b}" % (2 + dice.below(6), 2 + dice.below(3))]
        steps = steps + [last]
    else:
        title, need, steps = dice.pick(HOWTO)
        s.update(a=s["food"])
        lines = ["## HOW TO " + fill(dice, title, s).upper(), "Level: [easy|medium|hard] | Time: {t2} min", "Need: " + need]
        drop = dice.below(len(steps) + 2)
        steps = [x for i, x in enumerate(steps) if i != drop or i == 0]
    lines += ["%d. %s" % (i + 1, x) for i, x in enumerate(steps)]
    if dice.chance(0.5):
        lines.append("Tip: " + dice.pick(TIPS))
    return "\n".join(fill(dice, line, s) for line in lines)


# ---------------------------------------------------------------------------------------------------------------


def collect(make, size):
    out, total = [], 0
    while total < size:
        text = make(len(out) + 1)
        out.append(text)
        total += len(text) + 2
    return out


def pirate(seed=DEFAULTS["pirate"][0], size=DEFAULTS["pirate"][1]):
    dice = Dice(seed)
    return collect(lambda number: log_entry(dice, number), size)


def recipes(seed=DEFAULTS["recipe"][0], size=DEFAULTS["recipe"][1]):
    dice = Dice(seed)
    return collect(lambda number: recipe(dice), size)


def stories(seed=DEFAULTS["stories"][0], size=DEFAULTS["stories"][1]):
    dice = Dice(seed)
    lines = "\n".join(pirate() + recipes()).split("\n")
    return collect(lambda number: story(dice, lines), size)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(DEFAULTS))
    parser.add_argument("out")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--bytes", type=int)
    args = parser.parse_args()
    seed, size = DEFAULTS[args.what]
    seed = seed if args.seed is None else args.seed
    size = size if args.bytes is None else args.bytes
    paragraphs = {"stories": stories, "pirate": pirate, "recipe": recipes}[args.what](seed, size)
    with open(args.out, "w", encoding="utf-8", newline="\n") as file:
        file.write("\n\n".join(paragraphs) + "\n")


if __name__ == "__main__":
    main()
