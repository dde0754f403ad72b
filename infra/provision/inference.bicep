metadata name = 'Fjarr: remote inference'
metadata description = 'A container app on a GPU that serves a fine-tuned language model from an Azure Files share.'

targetScope = 'resourceGroup'

@description('Secrets by name: a value, or a reference to a Key Vault.')
@secure()
type Secrets = {
  @description('The secret of one name.')
  *: {
    @description('Its value.')
    value: string?

    @description('The address of a secret in a Key Vault.')
    keyVaultUrl: string?

    @description('The identity that reads it there: a resource id, or `system`.')
    identity: string?
  }
}

@description('What others have configured on the app. Lists are what they added to the lists of this template.')
#disable-diagnostics use-user-defined-types // What Azure shows is passed through as it is.
type Unmanaged = {
  @description('Tags of the app.')
  tags: object?

  @description('Its managed identities.')
  identity: object?

  @description('Further parts of its configuration, such as `registries` and `dapr`.')
  configuration: object?

  @description('Further parts of its ingress, such as `customDomains`, `corsPolicy` and `stickySessions`.')
  ingress: object?

  @description('Rules of its ingress for address ranges.')
  ipSecurityRestrictions: object[]?

  @description('Further parts of its template, such as `initContainers`.')
  template: object?

  @description('Further containers.')
  containers: object[]?

  @description('Volumes.')
  volumes: object[]?

  @description('Further parts of its scale, such as `cooldownPeriod`.')
  scale: object?

  @description('Scale rules.')
  scaleRules: object[]?

  @description('Further parts of the server\'s container, such as `args`.')
  container: object?

  @description('Environment variables of the server\'s container.')
  variables: object[]?

  @description('Volume mounts of the server\'s container.')
  volumeMounts: object[]?
}
#restore-diagnostics use-user-defined-types

@description('Text by name, such as tags or environment variables.')
type StringMap = {
  @description('The value of one name.')
  *: string
}

// ------------------------------------------------------------------ The parameters that the fine-tuning step has too

@description('The shell commands that start the server, joined with `; ` and run by `/bin/bash -c`. Null starts the release that the share\'s CURRENT file names.')
param defaultCommands string[]?

@description('The most nodes that a dedicated GPU workload profile may have. Null means `maxReplicas`, so that the default needs a quota of one GPU. With one more, an update starts the new revision before the old one ends.')
@minValue(1)
param maximumInstanceCount int?

@description('The region of every resource. Null means that of the resource group.')
param location string?

@description('The storage account that holds the share. Null means `aistorage` and the suffix.')
@minLength(3)
@maxLength(24)
param storageAccountName string?

@description('The file share with the code, the base models and the adapters. Null means `aifileshare` and the suffix.')
@minLength(3)
@maxLength(63)
param fileShareName string?

@description('The Container Apps environment. Null means `aienv` and the suffix.')
@minLength(1)
@maxLength(60)
param acaEnvironmentName string?

@description('The environment\'s name for the share. Null means `aienvstorage` and the suffix.')
@minLength(1)
@maxLength(32)
param acaEnvironmentStorageName string?

@description('The container app. Null means `aiacaapp` and the suffix.')
@minLength(2)
@maxLength(32)
param acaAppName string?

@description('The Log Analytics workspace that keeps the logs. Null means `ailog` and the suffix.')
@minLength(4)
@maxLength(63)
param acaLogAnalyticsName string?

@description('What the default names end in. The fine-tuning step uses the same formula: that is how its resources are found.')
param resourceSuffix string = take(uniqueString(resourceGroup().id), 5)

// --------------------------------------------------------------------------------------------------- The environment

@description('Whether the environment is there already (the fine-tuning step makes one). Then it and its workspace are left as they are, and only the share and the app are added to it.')
param environmentExists bool = false

@description('The GPU of a replica. It sets the workload profile, its CPU and its memory together; a parameter below that is set takes precedence. Serverless, billed by the second while a replica runs: `t4` (16 GB), `a100` (80 GB). Dedicated, billed while a node runs: `a100-dedicated`, `a100x2`, `a100x4`. `none` is a CPU. Regions differ: `az containerapp env workload-profile list-supported` lists what yours has.')
@allowed(['none', 't4', 'a100', 'a100-dedicated', 'a100x2', 'a100x4'])
param gpu string = 'a100-dedicated'

@description('The name of the environment\'s GPU workload profile. Null means that of `gpu`.')
@minLength(1)
param gpuProfileName string?

@description('The type of that profile: dedicated (`NC24-A100`, `NC48-A100`, `NC96-A100`) or serverless (`Consumption-GPU-NC24-A100`, `Consumption-GPU-NC8as-T4`). Null means that of `gpu`.')
@minLength(1)
param gpuProfileType string?

@description('The workload profile that the app runs on. Null means the GPU profile, or `Consumption` if `gpu` is `none`.')
@minLength(1)
param workloadProfileName string?

// ------------------------------------------------------------------------------------------ The network and identities

@description('The subnet that the environment is created in, by its resource id: delegated to Microsoft.App/environments, and /27 or larger. Empty: a network of Azure\'s. An environment keeps the network that it was created in.')
param infrastructureSubnetId string = ''

@description('Whether the environment has no public address, so that its apps are called from its network alone. Needs `infrastructureSubnetId`.')
param internalEnvironment bool = false

@description('Whether the app has a system-assigned identity.')
param systemIdentity bool = false

@description('The user-assigned identities of the app, by their resource ids.')
param userAssignedIdentities string[] = []

@description('The registry that `image` is pulled from by an identity, such as `name.azurecr.io`. Empty: the image is public.')
param registryServer string = ''

@description('The identity that pulls the image: the resource id of a user-assigned one, or `system`. It needs the role AcrPull, which a system-assigned one can only get after the app was created.')
param registryIdentity string = 'system'

// -------------------------------------------------------------------------------------------------------- The storage

@description('How the share is mounted. `SMB` uses the storage account\'s key. `NFS` uses none, for subscriptions whose policies forbid shared keys: it needs `infrastructureSubnetId`, whose subnet has the service endpoint Microsoft.Storage, and makes a premium account. It is chosen before the first provision.')
@allowed(['SMB', 'NFS'])
param shareProtocol string = 'SMB'

@description('The most that the share may hold, in GiB.')
@minValue(1)
@maxValue(102400)
param shareQuotaGib int = 1024

@description('Where the container sees the share. An absolute path.')
@minLength(2)
param mountPath string = '/mount'

// ------------------------------------------------------------------------------------------------------ The container

@description('The engine that generates the answers. It decides the image, the packages that are installed at the start and the server\'s settings. `auto` is vLLM on the GPU profile, unless `defaultCommands` is set, and transformers on a CPU. A variable FJARR_ENGINE in `environmentVariables` takes its place.')
@allowed(['auto', 'transformers', 'vllm'])
param engine string = 'auto'

@description('The container image. Empty: the engine\'s, pinned by version: vLLM\'s official image for GPUs or for CPUs, or PyTorch\'s for transformers. The command of the image is replaced by `defaultCommands`.')
param image string = ''

@description('The CPU cores of a replica, as text, because Bicep has no decimal numbers. Null means that of `gpu`.')
@minLength(1)
param containerCpu string?

@description('The memory of a replica, in Azure\'s notation, such as `220Gi`. Null means that of `gpu`.')
@minLength(3)
param containerMemory string?

@description('The least replicas. With 0 the app sleeps when nobody asks, and the first answer waits for a start.')
@minValue(0)
@maxValue(1000)
param minReplicas int = 1

@description('The most replicas. Each needs a GPU of its own.')
@minValue(1)
@maxValue(1000)
param maxReplicas int = 1

@description('The threshold of the HTTP scale rule: with more concurrent requests a replica, another is started, up to the most. Azure computes the number every 15 seconds, as the requests of the last 15 seconds divided by 15.')
@minValue(1)
param concurrentRequests int = 32

@description('Scale rules in Azure\'s notation that replace the HTTP rule, such as KEDA scalers. Empty: the HTTP rule.')
param scaleRules resourceInput<'Microsoft.App/containerApps@2026-01-01'>.properties.template.scale.rules = []

@description('How long the last replica stays without requests before the app scales to 0, in seconds. Without effect unless `minReplicas` is 0.')
@minValue(0)
param cooldownSeconds int = 300

@description('How often custom scale rules are evaluated, in seconds. The HTTP rule has an interval of its own.')
@minValue(1)
param pollingSeconds int = 30

@description('Whether the ingress sends a client to the same replica each time, by a cookie. The chat page needs it if there may be several replicas; API clients send no cookies and are not affected. Default: on if `maxReplicas` is more than 1.')
param stickySessions bool = maxReplicas > 1

@description('How long a replica that is being stopped may finish what it has begun, in seconds.')
@minValue(0)
@maxValue(600)
param terminationGracePeriodSeconds int = 60

@description('Further environment variables of the server. One of them takes the place of a variable that this template sets.')
param environmentVariables StringMap = {}

// --------------------------------------------------------------------------------------------------------- The server

@description('The API key, or several as `name=key` parted by commas. Kept as a secret of the app. Empty: no key is asked for, which the server refuses unless FJARR_AUTH is `off`.')
@secure()
param apiKey string = ''

@description('The address of a secret in a Key Vault that holds the API keys, in place of `apiKey`.')
param apiKeyVaultUrl string = ''

@description('The identity that reads that secret: the resource id of a user-assigned one, or `system`. It needs the role Key Vault Secrets User.')
param apiKeyVaultIdentity string = 'system'

@description('Whether the chat page asks for the API key.')
param chatSignIn bool = true

@description('The base model: a path on the share or a hub id. Empty: the one that the adapter was trained on.')
param baseModel string = ''

@description('The adapters: paths on the share, parted by commas, the main one first; `*` takes every adapter below models/. Empty: every adapter of the newest one\'s base model.')
param adapterPath string = ''

// -------------------------------------------------------------------------------------------------------- The ingress

@description('Whether the endpoint is reachable from outside the environment.')
param externalIngress bool = true

@description('Whether the endpoint also answers plain HTTP.')
param allowInsecure bool = false

@description('The address ranges in CIDR notation that may call the endpoint. Empty: all of them.')
param allowedIpRanges string[] = []

@description('Tags of every resource that can carry tags.')
param tags StringMap = {}

// ------------------------------------------------------------- What others configure: set by `invoke provision` alone

@description('What others have configured on the app, which a deployment keeps: `tags`, `identity`, and parts of the configuration and of the template. `invoke provision` reads it from the app.')
param unmanaged Unmanaged = {}

@description('The secrets of the app that others have set, by name. `invoke provision` reads them from the app.')
param unmanagedSecrets Secrets = {}

// ------------------------------------------------------------------------------------------------------------- Values

var region = location ?? resourceGroup().location
var accountName = storageAccountName ?? 'aistorage${resourceSuffix}'
var shareName = fileShareName ?? 'aifileshare${resourceSuffix}'
var environmentName = acaEnvironmentName ?? 'aienv${resourceSuffix}'
var environmentStorageName = acaEnvironmentStorageName ?? 'aienvstorage${resourceSuffix}'
var appName = acaAppName ?? 'aiacaapp${resourceSuffix}'
var workspaceName = acaLogAnalyticsName ?? 'ailog${resourceSuffix}'

var containerPort = 7860
var apiKeySecretName = 'api-key'
var volumeName = 'share'

// What answers until the first deploy, in the image's Python: the platform's probes get 200, so that the app is healthy
// and its deployment ends, and everybody else gets 503. It may hold no apostrophe: the shell's quotes are apostrophes.
var waitingPage = '''
import http.server, os, socket

class Page(http.server.BaseHTTPRequestHandler):
    timeout = 5

    def do_GET(self):
        is_probe = self.path == "/healthz" or "X-Fjarr-Probe" in self.headers
        self.send_response(200 if is_probe else 503)
        for name, value in ("Content-Type", "text/plain"), ("Retry-After", "5"), ("Refresh", "5"):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"nothing deployed yet: run invoke deploy\n")

    def do_POST(self):
        self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 1 << 20))
        self.do_GET()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass

def is_deployed():
    try:
        return os.stat(os.environ["FJARR_MOUNT"] + "/CURRENT").st_size > 0
    except OSError:
        return False

host = os.environ.get("FJARR_HOST") or "0.0.0.0"
port = int(os.environ.get("CONTAINER_APP_PORT") or os.environ.get("FJARR_PORT") or 7860)
http.server.ThreadingHTTPServer.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
with http.server.ThreadingHTTPServer((host, port), Page) as server:
    server.timeout = 1
    while not is_deployed():
        server.handle_request()
'''

var commands = defaultCommands ?? [
  'trap "exit 143" TERM' // A shell that is the first process of a container ignores what it does not trap.
  'until [ -s "$FJARR_MOUNT/CURRENT" ]; do echo "no release on the share yet: run invoke deploy"; python3 -c \'${waitingPage}\' & wait $! || sleep 5; done'
  'export FJARR_RELEASE="$(cat "$FJARR_MOUNT/CURRENT")"'
  'cd "$FJARR_MOUNT/releases/$FJARR_RELEASE"'
  'exec python3 -m inference.start'
]

// The values of `gpu`. The pipeline reads this table from the compiled template.
var gpus = {
  none: { profileName: 'GPU', profileType: null, cpu: '4', memory: '8Gi' }
  t4: { profileName: 'gpu-t4', profileType: 'Consumption-GPU-NC8as-T4', cpu: '8', memory: '56Gi' }
  a100: { profileName: 'gpu-a100', profileType: 'Consumption-GPU-NC24-A100', cpu: '24', memory: '220Gi' }
  'a100-dedicated': { profileName: 'GPU', profileType: 'NC24-A100', cpu: '24', memory: '220Gi' } // the AI Toolkit's
  a100x2: { profileName: 'gpu-a100x2', profileType: 'NC48-A100', cpu: '48', memory: '440Gi' }
  a100x4: { profileName: 'gpu-a100x4', profileType: 'NC96-A100', cpu: '96', memory: '880Gi' }
}
var profileName = gpuProfileName ?? gpus[gpu].profileName
var profileType = gpuProfileType ?? gpus[gpu].profileType
var appProfileName = workloadProfileName ?? (gpu == 'none' ? 'Consumption' : profileName)

// A serverless profile scales by itself: Azure refuses counts on it.
var gpuProfile = startsWith(profileType ?? '', 'Consumption')
  ? { name: profileName, workloadProfileType: profileType }
  : {
      name: profileName
      workloadProfileType: profileType
      minimumCount: 0
      maximumCount: maximumInstanceCount ?? maxReplicas
    }

// FJARR_ENGINE among the variables is the older way to choose the engine.
var wantedEngine = environmentVariables.?FJARR_ENGINE ?? engine
var hasGpu = appProfileName == profileName
// Commands of the user's own were written for the PyTorch image.
var defaultEngine = hasGpu && defaultCommands == null ? 'vllm' : 'transformers'
var imageEngine = wantedEngine == 'auto' ? defaultEngine : wantedEngine

// The releases that the server's requirements for the engine name.
var vllmImage = hasGpu ? 'docker.io/vllm/vllm-openai:v0.32.0' : 'docker.io/vllm/vllm-openai-cpu:v0.32.0'
var torchImage = 'docker.io/pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime'
var engineImage = imageEngine == 'vllm' ? vllmImage : torchImage

// The app's identities: those that are needed, and those that others have assigned.
var ownIdentities = union(
  systemIdentity ? ['system'] : [],
  userAssignedIdentities,
  empty(registryServer) ? [] : [registryIdentity],
  empty(apiKeyVaultUrl) ? [] : [apiKeyVaultIdentity]
)
var userIdentities = union(
  unmanaged.?identity.?userAssignedIdentities ?? {},
  toObject(filter(ownIdentities, id => id != 'system'), id => id, id => {})
)
var hasSystemIdentity = contains(ownIdentities, 'system') || contains(
  unmanaged.?identity.?type ?? '',
  'SystemAssigned'
)
var userIdentityPart = empty(userIdentities) ? {} : { userAssignedIdentities: userIdentities }
var identity = hasSystemIdentity
  ? union(
      { type: empty(userIdentities) ? 'SystemAssigned' : 'SystemAssigned,UserAssigned' },
      userIdentityPart
    )
  : empty(userIdentities) ? null : union({ type: 'UserAssigned' }, userIdentityPart)

var registries = concat(
  empty(registryServer) ? [] : [{ server: registryServer, identity: registryIdentity }],
  unmanaged.?configuration.?registries ?? []
)

var apiKeySecrets = !empty(apiKeyVaultUrl)
  ? [{ name: apiKeySecretName, keyVaultUrl: apiKeyVaultUrl, identity: apiKeyVaultIdentity }]
  : empty(apiKey) ? [] : [{ name: apiKeySecretName, value: apiKey }]

var isNfs = shareProtocol == 'NFS'
var network = empty(infrastructureSubnetId)
  ? {}
  : { vnetConfiguration: { infrastructureSubnetId: infrastructureSubnetId, internal: internalEnvironment } }

// One object, so that a variable of the caller takes the place of ours: Azure refuses a name that comes twice.
var plainVariables = union(
  {
    FJARR_MOUNT: mountPath
    FJARR_ENGINE: engine
    FJARR_CHAT_SIGN_IN: chatSignIn ? 'on' : 'off'
    FJARR_BASE_MODEL: baseModel
    FJARR_ADAPTER: adapterPath
    PYTHONDONTWRITEBYTECODE: '1' // A release on the share stays as its manifest says.
    // The image's Python is its distribution's, into which pip would else install nothing (PEP 668).
    PIP_BREAK_SYSTEM_PACKAGES: '1'
  },
  environmentVariables
)

var probes = [
  {
    type: 'Startup'
    httpGet: { path: '/healthz', port: containerPort }
    initialDelaySeconds: 1
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: 10
  }
  {
    type: 'Liveness'
    httpGet: { path: '/healthz', port: containerPort }
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 10
  }
  {
    type: 'Readiness'
    httpGet: {
      path: '/readyz'
      port: containerPort
      httpHeaders: [{ name: 'X-Fjarr-Probe', value: 'readiness' }]
    }
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: 3
  }
]

var httpRules = [{ name: 'http', http: { metadata: { concurrentRequests: string(concurrentRequests) } } }]

var ipRules = [
  for (range, index) in allowedIpRanges: {
    name: 'allow-${index + 1}'
    action: 'Allow'
    ipAddressRange: range
  }
]

// ---------------------------------------------------------------------------------------------------------- Resources

resource account 'Microsoft.Storage/storageAccounts@2025-08-01' = {
  name: accountName
  location: region
  tags: tags
  sku: { name: isNfs ? 'Premium_LRS' : 'Standard_LRS' }
  kind: isNfs ? 'FileStorage' : 'StorageV2'
  properties: union(
    {
      allowBlobPublicAccess: false
      allowSharedKeyAccess: !isNfs // An environment mounts an SMB share by the account's key, and by nothing else.
      minimumTlsVersion: 'TLS1_2'
      supportsHttpsTrafficOnly: !isNfs // An environment mounts an NFS share without encryption in transit.
    },
    isNfs
      // An NFS share has no authentication but the network that it can be reached from.
      ? {
          networkAcls: {
            bypass: 'AzureServices'
            defaultAction: 'Deny'
            virtualNetworkRules: [{ id: infrastructureSubnetId }]
          }
        }
      : { accessTier: 'Hot', largeFileSharesState: 'Enabled' }
  )

  resource files 'fileServices' = {
    name: 'default'
    properties: {
      shareDeleteRetentionPolicy: { enabled: true, days: 7 }
    }

    resource share 'shares' = {
      name: shareName
      properties: union(
        { enabledProtocols: shareProtocol, shareQuota: shareQuotaGib },
        isNfs ? { rootSquash: 'NoRootSquash' } : {}
      )
    }
  }
}

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-02-01' = if (!environmentExists) {
  name: workspaceName
  location: region
  tags: tags
  properties: {
    sku: { name: 'PerGB2018' }
  }
}

resource environment 'Microsoft.App/managedEnvironments@2026-01-01' = if (!environmentExists) {
  name: environmentName
  location: region
  tags: tags
  properties: union(network, {
    appLogsConfiguration: {
      destination: 'log-analytics'
      logAnalyticsConfiguration: {
        customerId: workspace!.properties.customerId
        sharedKey: workspace!.listKeys().primarySharedKey
      }
    }
    workloadProfiles: concat(
      [{ name: 'Consumption', workloadProfileType: 'Consumption' }],
      profileType == null ? [] : [gpuProfile]
    )
  })
}

// Not under the environment's condition: the share is added to an environment that is there already, too.
resource environmentStorage 'Microsoft.App/managedEnvironments/storages@2026-01-01' = {
  parent: environment
  name: environmentStorageName
  properties: isNfs
    ? {
        nfsAzureFile: {
          accessMode: 'ReadWrite'
          server: '${account.name}.file.${az.environment().suffixes.storage}'
          shareName: '/${account.name}/${account::files::share.name}'
        }
      }
    : {
        azureFile: {
          accessMode: 'ReadWrite'
          accountKey: account.listKeys().keys[0].value
          accountName: account.name
          shareName: account::files::share.name
        }
      }
}

resource app 'Microsoft.App/containerApps@2026-01-01' = {
  name: appName
  location: region
  tags: union(unmanaged.?tags ?? {}, tags)
  identity: identity
  properties: {
    environmentId: environment.id
    workloadProfileName: appProfileName
    configuration: union(
      unmanaged.?configuration ?? {},
      empty(registries) ? {} : { registries: registries },
      {
        activeRevisionsMode: 'Single'
        ingress: union(unmanaged.?ingress ?? {}, {
          allowInsecure: allowInsecure
          external: externalIngress
          ipSecurityRestrictions: concat(ipRules, unmanaged.?ipSecurityRestrictions ?? [])
          stickySessions: { affinity: stickySessions ? 'sticky' : 'none' }
          targetPort: containerPort
          traffic: [{ latestRevision: true, weight: 100 }]
          transport: 'auto'
        })
        secrets: concat(
          apiKeySecrets,
          map(items(unmanagedSecrets), secret => union({ name: secret.key }, secret.value))
        )
      }
    )
    template: union(unmanaged.?template ?? {}, {
      containers: concat(
        [
          union(unmanaged.?container ?? {}, {
            name: 'inference'
            image: empty(image) ? engineImage : image
            command: ['/bin/bash', '-c', join(commands, '; ')]
            env: concat(
              map(items(plainVariables), variable => { name: variable.key, value: variable.value }),
              empty(apiKeySecrets) ? [] : [{ name: 'FJARR_API_KEYS', secretRef: apiKeySecretName }],
              // Tells whether the key has been rotated; then it makes a revision, which mounts the share anew.
              isNfs
                ? []
                : [{ name: 'STORAGE_KEY_DIGEST', value: uniqueString(account.listKeys().keys[0].value) }],
              unmanaged.?variables ?? []
            )
            probes: probes
            resources: {
              cpu: json(containerCpu ?? gpus[gpu].cpu)
              memory: containerMemory ?? gpus[gpu].memory
            }
            volumeMounts: concat(
              [{ volumeName: volumeName, mountPath: mountPath }],
              unmanaged.?volumeMounts ?? []
            )
          })
        ],
        unmanaged.?containers ?? []
      )
      scale: union(unmanaged.?scale ?? {}, {
        minReplicas: minReplicas
        maxReplicas: maxReplicas
        cooldownPeriod: cooldownSeconds
        pollingInterval: pollingSeconds
        rules: concat(empty(scaleRules) ? httpRules : scaleRules, unmanaged.?scaleRules ?? [])
      })
      terminationGracePeriodSeconds: terminationGracePeriodSeconds
      volumes: concat(
        [
          {
            name: volumeName
            storageType: isNfs ? 'NfsAzureFile' : 'AzureFile'
            storageName: environmentStorage.name
          }
        ],
        unmanaged.?volumes ?? []
      )
    })
  }
}

// ------------------------------------------------------------------- Outputs: the six keys of inference.config.json

@description('The subscription that all of this is in.')
output SUBSCRIPTION_ID string = subscription().subscriptionId

@description('The resource group that all of this is in.')
output RESOURCE_GROUP_NAME string = resourceGroup().name

@description('The storage account that holds the share.')
output STORAGE_ACCOUNT_NAME string = account.name

@description('The file share.')
output FILE_SHARE_NAME string = account::files::share.name

@description('The container app.')
output ACA_APP_NAME string = app.name

@description('The app\'s host name, without a scheme.')
output ACA_APP_ENDPOINT string = app.properties.configuration.ingress.fqdn
