// What Bicep makes of its own constructs, for the evaluator to be judged by: types, functions, loops, conditions,
// nesting, existing resources, spreads, safe access, keys that are expressions. It deploys nothing that makes sense.
targetScope = 'resourceGroup'

@minLength(2)
type Name = string

@discriminator('kind')
type Shape = circle | square
type circle = { kind: 'circle', radius: int }
type square = { kind: 'square', side: int, *: string }
type Tree = { name: Name, size: int?, tags: { *: string }?, children: Tree[]? }
type Level = 'low' | 'high' | null

param prefix Name = 'torture'
param count int = 2
param tree Tree = {
  name: 'root'
  children: [{ name: 'left', size: 1 }, { name: 'right', tags: { side: 'r' } }]
}
param shape Shape = { kind: 'square', side: 3, colour: 'red' }
param level Level
param pair [string, int] = ['one', 2]
param maybe string?
param choices ('a' | 'b' | 'c')[] = ['a', 'c']
param enabled bool = true
@secure()
param secret string
@secure()
param settings object = { mode: 'safe' }

func greet(name string, times int) string => join(map(range(0, times), i => '${i}:${toUpper(name)}'), ' ')
func wrap(value object) object => { inner: value, ...value }

var indexed = [for i in range(0, count): { name: '${prefix}${i}', even: i % 2 == 0 }]
var evens = filter(indexed, entry => entry.even)
var byName = toObject(indexed, entry => entry.name, entry => entry.even)
var merged = { ...tree, size: tree.?size ?? 7, '${prefix}-key': prefix }
var deep = union({ a: { x: 1, y: [1] } }, { a: { y: [2], z: null } })
var total = reduce(map(tree.children ?? [], child => child.?size ?? 10), 0, (sum, each) => sum + each)
var sorted = sort(['pear', 'apple', 'fig'], (a, b) => length(a) < length(b))
var text = '''
several
  lines with 'quotes' and ${not} interpolation
'''
var cidrs = [for i in range(0, 2): cidrSubnet('10.20.0.0/16', 24, i)]
var area = shape.kind == 'square' ? shape.side * shape.side : 0

resource account 'Microsoft.Storage/storageAccounts@2025-08-01' = {
  name: take(toLower('${prefix}${uniqueString(resourceGroup().id, prefix)}'), 24)
  location: resourceGroup().location
  kind: 'StorageV2'
  sku: { name: enabled ? 'Standard_LRS' : 'Standard_GRS' }
  tags: {
    ...byName.torture0 ? { first: 'even' } : {}
    '${prefix}': greet(prefix, 3)
    area: string(area)
    secret: secret
    hidden: empty(secret) ? 'none' : 'some ${prefix}'
    mode: settings.mode
  }
  properties: {
    customDomain: maybe == null ? null : { name: maybe! }
    networkAcls: {
      defaultAction: 'Deny'
      ipRules: [for (cidr, i) in cidrs: { value: cidr, action: i == 0 ? 'Allow' : 'Allow' }]
    }
  }

  resource blobs 'blobServices' = {
    name: 'default'
    properties: {
      cors: { corsRules: [] }
    }

    resource containers 'containers' = [
      for entry in indexed: if (entry.even || contains(choices, 'c')) {
        name: 'c-${entry.name}'
        properties: { metadata: { even: string(entry.even), text: text } }
      }
    ]
  }
}

resource other 'Microsoft.Storage/storageAccounts@2025-08-01' existing = {
  name: 'otheraccount'
}

resource elsewhere 'Microsoft.Storage/storageAccounts@2025-08-01' existing = {
  name: 'elsewhere'
  scope: resourceGroup('another-group')
}

@batchSize(1)
resource spaces 'Microsoft.OperationalInsights/workspaces@2025-02-01' = [
  for i in range(1, count): {
    name: '${prefix}-space-${i}'
    location: resourceGroup().location
    properties: {
      retentionInDays: 30 + i
      features: wrap({ index: i, last: last(sorted), evens: length(evens) })
    }
  }
]

resource never 'Microsoft.OperationalInsights/workspaces@2025-02-01' = if (!enabled) {
  name: '${prefix}-never'
  location: 'westeurope'
}

resource link 'Microsoft.OperationalInsights/workspaces/savedSearches@2025-02-01' = {
  parent: spaces[0]
  name: 'search'
  properties: {
    category: pair[0]
    displayName: '${spaces[1].properties.customerId}/${account.properties.primaryEndpoints.file}'
    query: other.listKeys().keys[0].value
    version: pair[1]
    functionParameters: join(map(items(deep), entry => '${entry.key}=${string(entry.value)}'), ';')
  }
  dependsOn: [never, account::blobs::containers]
}

output merged object = merged
output deep object = deep
output total int = total
output level string? = level
output evens array = evens
output ids array = [for (entry, i) in indexed: { i: i, id: spaces[i].id }]
output names array = map(tree.children ?? [], child => child.name)
output elsewhere string = elsewhere.id
output key string = account::blobs::containers[0].name
output endpoint string = account.properties.primaryEndpoints.file
output firstOrNone string = tree.?tags.?side ?? 'none'
output text string = text
output greeting string = greet('bo', 2)
